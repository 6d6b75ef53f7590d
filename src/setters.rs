//! Setters for the structs of settings. These are `non_exhaustive`, so that a program does not break
//! when a field is added, by a new version or by a feature that another crate enables. In return,
//! other crates cannot build them as literals.

/// Makes a setter named after each field, which takes the struct by value and returns it. A setter
/// that is marked `into` accepts everything that converts into the field's type.
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
