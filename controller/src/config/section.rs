//! One macro for a table of the configuration file. From one list of keys it makes the settings, the fragment that is
//! read (every key optional, none unknown), and what the example and the documentation are printed from.

/// A key as the example and the documentation show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    pub name: &'static str,
    /// The default as TOML.
    pub default: String,
    pub help: &'static str,
}

/// `section!(Settings, Fragment { key: Type = default, "help"; ... })`. The default of a key may be overridden by building
/// the settings another way: the fragment is laid over whatever settings it is given.
macro_rules! section {
    ($(#[$doc:meta])* $settings:ident, $fragment:ident { $($key:ident: $type:ty = $default:expr, $help:literal;)* }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq)]
        pub struct $settings { $(#[doc = $help] pub $key: $type,)* }

        impl Default for $settings {
            fn default() -> Self {
                Self { $($key: $default,)* }
            }
        }

        impl $settings {
            /// Every key with these settings as its default.
            #[must_use]
            pub fn keys(&self) -> Vec<crate::config::section::Key> {
                vec![$(crate::config::section::Key {
                    name: stringify!($key),
                    default: crate::config::section::toml_of(&self.$key),
                    help: $help,
                },)*]
            }
        }

        #[derive(Debug, Default, serde::Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub(crate) struct $fragment { $($key: Option<$type>,)* }

        impl $fragment {
            pub(crate) fn over(self, base: $settings) -> $settings {
                $settings { $($key: self.$key.unwrap_or(base.$key),)* }
            }
        }
    };
}

/// The value as it stands on the right of `=`.
pub fn toml_of<T: serde::Serialize>(value: &T) -> String {
    toml::Value::try_from(value).map_or_else(|error| format!("# {error}"), |value| value.to_string())
}

pub(crate) use section;
