//! Tensors as arrays of the crate `ndarray`, which borrow their elements: `cargo ipc serve --demo` in one
//! terminal, `cargo run --example arrays` in another.

use std::borrow::Cow;

use ipc_framework::Tensor;
use ipc_framework::client::ClientOptions;
use ndarray::{Array, ArrayView, ArrayViewD, Axis, Dimension, array};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn main() -> Result<()> {
    println!("{:?}", run(&ClientOptions::new("bench"))?);
    Ok(())
}

/// Returns the elements without a copy: in a tensor that was received they lie where the message was read.
fn view<'t>(tensor: &'t Tensor<'_, f32>) -> Result<ArrayViewD<'t, f32>> {
    Ok(ArrayView::from_shape(tensor.shape(), tensor.data())?)
}

/// Returns the tensor of an array. An array in another order than C, as after `t()`, is copied into that one.
fn tensor<D: Dimension>(array: &Array<f32, D>) -> Result<Tensor<'_, f32>> {
    let data = match array.as_slice() {
        Some(elements) => Cow::Borrowed(elements),
        None => array.iter().copied().collect(),
    };
    Ok(Tensor::new(array.shape(), data)?)
}

/// Asks a worker for the sums of the columns of a matrix, and of its transpose.
pub(crate) fn run(options: &ClientOptions) -> Result<[Vec<f32>; 2]> {
    let worker = options.connect()?;
    worker.serve("sum_columns", 1, |request| {
        let matrix: Tensor<'_, f32> = request.payload.decode_borrowed()?;
        let sums = view(&matrix)?.sum_axis(Axis(0));
        Ok(tensor(&sums)?.into_owned())
    })?;
    let client = options.connect()?;
    let matrix = array![[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]];
    let mut sums = [Vec::new(), Vec::new()];
    for (sums, matrix) in sums.iter_mut().zip([matrix.clone(), matrix.reversed_axes()]) {
        let answer = client.request("sum_columns", &tensor(&matrix)?)?;
        let answer: Tensor<'_, f32> = answer.payload.decode_borrowed()?;
        *sums = view(&answer)?.iter().copied().collect();
    }
    client.close()?;
    worker.close()?;
    Ok(sums)
}
