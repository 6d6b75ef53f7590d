//! The Rust types of a tensor's elements.

use super::dtype::Dtype;

/// A type of the elements of a [`Tensor`](super::Tensor): `bool`, the integers of 8 to 64 bits, [`F16`],
/// [`Bf16`], `f32`, `f64`, and as complex numbers `[f32; 2]` and `[f64; 2]`, the real part first.
///
/// ```
/// use ipc_framework::proto::{Dtype, dtype_of};
///
/// assert_eq!(dtype_of::<f32>(), Dtype::F32);
/// assert_eq!(dtype_of::<[f64; 2]>(), Dtype::C128);
/// ```
pub trait Element: sealed::Sealed {}

impl<T: sealed::Sealed> Element for T {}

/// Returns the name of an element's type on the wire.
pub fn dtype_of<T: Element>() -> Dtype {
    T::DTYPE
}

/// The bits of a number of 16 bits by IEEE 754. The crate `half` has arithmetic for them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct F16(pub u16);

/// The bits of a number of 16 bits with the exponent of an `f32`, of which it is the upper half.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Bf16(pub u16);

mod sealed {
    use std::borrow::Cow;

    use super::{Bf16, Dtype, F16};

    /// Sealed, because the elements are read from bytes of peers.
    pub trait Sealed: Copy + 'static {
        const DTYPE: Dtype;

        /// Returns the elements as they stand on the wire, without a copy where memory has the same
        /// form.
        fn to_wire(elements: &[Self]) -> Cow<'_, [u8]>;

        /// Reads as many elements as there are whole ones, without a copy where the bytes lie as this
        /// machine needs them.
        fn from_wire(bytes: &[u8]) -> Cow<'_, [Self]>;
    }

    const IS_LITTLE: bool = cfg!(target_endian = "little");

    /// Numbers whose memory is what stands on the wire, where the machine is little-endian.
    macro_rules! numbers {
        ($($dtype:ident $type:ty, $bytes:literal;)*) => {
            $(
                impl Sealed for $type {
                    const DTYPE: Dtype = Dtype::$dtype;

                    fn to_wire(elements: &[Self]) -> Cow<'_, [u8]> {
                        if IS_LITTLE {
                            return Cow::Borrowed(bytemuck::cast_slice(elements));
                        }
                        elements.iter().flat_map(|element| element.to_le_bytes()).collect()
                    }

                    fn from_wire(bytes: &[u8]) -> Cow<'_, [Self]> {
                        let (items, _rest) = bytes.as_chunks::<$bytes>();
                        match bytemuck::try_cast_slice(items.as_flattened()) {
                            Ok(elements) if IS_LITTLE => Cow::Borrowed(elements),
                            _ => items.iter().map(|item| Self::from_le_bytes(*item)).collect(),
                        }
                    }
                }
            )*
        };
    }

    numbers! {
        U8 u8, 1;
        I8 i8, 1;
        U16 u16, 2;
        I16 i16, 2;
        U32 u32, 4;
        I32 i32, 4;
        U64 u64, 8;
        I64 i64, 8;
        F32 f32, 4;
        F64 f64, 8;
    }

    /// Complex numbers, whose memory is that of their parts.
    macro_rules! pairs {
        ($($dtype:ident $part:ty, $bytes:literal;)*) => {
            $(
                impl Sealed for [$part; 2] {
                    const DTYPE: Dtype = Dtype::$dtype;

                    fn to_wire(elements: &[Self]) -> Cow<'_, [u8]> {
                        <$part>::to_wire(elements.as_flattened())
                    }

                    fn from_wire(bytes: &[u8]) -> Cow<'_, [Self]> {
                        let whole = &bytes[..bytes.len() / $bytes * $bytes];
                        match <$part>::from_wire(whole) {
                            Cow::Borrowed(parts) => Cow::Borrowed(parts.as_chunks::<2>().0),
                            Cow::Owned(parts) => Cow::Owned(parts.as_chunks::<2>().0.to_vec()),
                        }
                    }
                }
            )*
        };
    }

    pairs! {
        C64 f32, 8;
        C128 f64, 16;
    }

    /// Bits in a type of their own, which are always copied.
    macro_rules! bits {
        ($($dtype:ident $type:ident;)*) => {
            $(
                impl Sealed for $type {
                    const DTYPE: Dtype = Dtype::$dtype;

                    fn to_wire(elements: &[Self]) -> Cow<'_, [u8]> {
                        elements.iter().flat_map(|element| element.0.to_le_bytes()).collect()
                    }

                    fn from_wire(bytes: &[u8]) -> Cow<'_, [Self]> {
                        let (items, _rest) = bytes.as_chunks::<2>();
                        items.iter().map(|item| Self(u16::from_le_bytes(*item))).collect()
                    }
                }
            )*
        };
    }

    bits! {
        F16 F16;
        Bf16 Bf16;
    }

    impl Sealed for bool {
        const DTYPE: Dtype = Dtype::Bool;

        fn to_wire(elements: &[Self]) -> Cow<'_, [u8]> {
            Cow::Borrowed(bytemuck::cast_slice(elements))
        }

        /// Any byte may have come; each but 0 is true.
        fn from_wire(bytes: &[u8]) -> Cow<'_, [Self]> {
            bytes.iter().map(|byte| *byte != 0).collect()
        }
    }
}
