//! Setters for the structs of settings, which nobody outside this crate can write as a literal: a
//! field that is added must not break a program, nor one that another crate's features add.

/// Makes a setter of each field's name, which takes the struct by value and gives it back. Behind
/// `into` it takes everything that converts into the field's type.
macro_rules! setters {
    ($name:ident { $($(#[$attribute:meta])* $($into:ident)? [$field:ident: $type:ty])* }) => {
        impl $name {
            $(setters!(@one $name $(#[$attribute])* $($into)? [$field: $type]);)*
        }
    };
    (@one $name:ident $(#[$attribute:meta])* [$field:ident: $type:ty]) => {
        $(#[$attribute])*
        #[doc = concat!("Sets [`", stringify!($field), "`](field@", stringify!($name), "::", stringify!($field), ").")]
        pub fn $field(mut self, $field: $type) -> Self {
            self.$field = $field;
            self
        }
    };
    (@one $name:ident $(#[$attribute:meta])* into [$field:ident: $type:ty]) => {
        $(#[$attribute])*
        #[doc = concat!("Sets [`", stringify!($field), "`](field@", stringify!($name), "::", stringify!($field), ").")]
        pub fn $field(mut self, $field: impl Into<$type>) -> Self {
            self.$field = $field.into();
            self
        }
    };
}

pub(crate) use setters;
