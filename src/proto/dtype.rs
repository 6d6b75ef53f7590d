/// The type of the elements of an attachment that is a tensor.
///
/// Elements are little-endian and lie in C order.
///
/// ```
/// use ipc_framework::proto::Dtype;
///
/// let dtype = Dtype::from_name("f32").unwrap();
/// assert_eq!((dtype, dtype.item_bytes()), (Dtype::F32, 4));
/// assert_eq!(Dtype::C64.item_bytes(), 8);
/// assert_eq!(Dtype::from_name("float32"), None);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// A byte that is 0 or 1. Nobody checks that it is.
    Bool,
    /// An unsigned integer of 8 bits.
    U8,
    /// A signed integer of 8 bits.
    I8,
    /// An unsigned integer of 16 bits.
    U16,
    /// A signed integer of 16 bits.
    I16,
    /// An unsigned integer of 32 bits.
    U32,
    /// A signed integer of 32 bits.
    I32,
    /// An unsigned integer of 64 bits.
    U64,
    /// A signed integer of 64 bits.
    I64,
    /// A number of 16 bits by IEEE 754.
    F16,
    /// A number of 16 bits with the exponent of one of 32 bits.
    Bf16,
    /// A number of 32 bits by IEEE 754.
    F32,
    /// A number of 64 bits by IEEE 754.
    F64,
    /// A complex number of two [`Dtype::F32`].
    C64,
    /// A complex number of two [`Dtype::F64`].
    C128,
}

impl Dtype {
    /// Every type.
    pub const ALL: [Self; 15] = [
        Self::Bool,
        Self::U8,
        Self::I8,
        Self::U16,
        Self::I16,
        Self::U32,
        Self::I32,
        Self::U64,
        Self::I64,
        Self::F16,
        Self::Bf16,
        Self::F32,
        Self::F64,
        Self::C64,
        Self::C128,
    ];

    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::U8 => "u8",
            Self::I8 => "i8",
            Self::U16 => "u16",
            Self::I16 => "i16",
            Self::U32 => "u32",
            Self::I32 => "i32",
            Self::U64 => "u64",
            Self::I64 => "i64",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::F32 => "f32",
            Self::F64 => "f64",
            Self::C64 => "c64",
            Self::C128 => "c128",
        }
    }

    /// The type with this name on the wire.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dtype| dtype.name() == name)
    }

    /// The bytes of one element.
    pub const fn item_bytes(self) -> usize {
        match self {
            Self::Bool | Self::U8 | Self::I8 => 1,
            Self::U16 | Self::I16 | Self::F16 | Self::Bf16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::U64 | Self::I64 | Self::F64 | Self::C64 => 8,
            Self::C128 => 16,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_leads_back_to_its_type() {
        for dtype in Dtype::ALL {
            assert_eq!(Dtype::from_name(dtype.name()), Some(dtype));
            // c64 names the bits of the whole number, as the others do.
            let bits = dtype.name().trim_start_matches(|letter: char| letter.is_ascii_alphabetic());
            let bytes = bits.parse::<usize>().map_or(1, |bits| bits / 8);
            assert_eq!(dtype.item_bytes(), bytes, "{dtype:?}");
        }
        for name in ["", "F32", "f32 ", "c256", "str"] {
            assert_eq!(Dtype::from_name(name), None);
        }
    }
}
