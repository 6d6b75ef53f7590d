#!/usr/bin/env bash
# PyTorch: a tensor with the negative bit set, such as the imaginary part of a conjugated one, is lent by __dlpack__ without
# its sign: whoever reads it by from_dlpack gets the wrong numbers, and no error. Tensor.numpy() refuses such a tensor, and
# __dlpack__ refuses the conjugate bit, which is the same kind of view. tensor.resolve_neg() before it helps.
#
# Seen with PyTorch 1.13.1 of Debian 12 (python3-torch 1.13.1+dfsg-4), NumPy 1.24.2, CPython 3.11.2; 150 MB are downloaded
# and unpacked, not installed. Output: "PyTorch: [-2.0, -4.0]", "NumPy by DLPack: [2.0, 4.0]", "with resolve_neg: [-2.0, -4.0]",
# "numpy(): Can't call numpy() on Tensor that has negative bit set."
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
apt-get install --simulate --no-install-recommends python3-torch=1.13.1+dfsg-4 | awk '/^Inst/ {print $2}' > needed
xargs apt-get --quiet=2 --option APT::Sandbox::User=root download < needed
for package in *.deb; do dpkg -x "$package" root; rm "$package"; done
libraries=$(find root/usr/lib -name '*.so*' -printf '%h\n' | sort -u | tr '\n' ':')
export LD_LIBRARY_PATH=$libraries PYTHONPATH=root/usr/lib/python3/dist-packages
cat > lends.py <<'PYTHON'
import numpy
import torch

tensor = torch.tensor([1 + 2j, 3 + 4j]).conj().imag
print(f"PyTorch: {tensor.tolist()}")
print(f"NumPy by DLPack: {numpy.from_dlpack(tensor).tolist()}")
print(f"with resolve_neg: {numpy.from_dlpack(tensor.resolve_neg()).tolist()}")
try:
    tensor.numpy()
except RuntimeError as error:
    print(f"numpy(): {str(error).split(' Use')[0]}")
PYTHON
found=$(/usr/bin/python3 lends.py)
echo "$found"
expected="PyTorch: [-2.0, -4.0]
NumPy by DLPack: [2.0, 4.0]
with resolve_neg: [-2.0, -4.0]
numpy(): Can't call numpy() on Tensor that has negative bit set."
[ "$found" = "$expected" ]
