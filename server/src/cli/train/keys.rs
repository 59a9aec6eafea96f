//! Keys of a configuration as options of the command line: the macro that declares them, and a method's arguments as
//! the shared ones beside its own. Leaves what keys mean to the trainer.

use serde_json::Value;

use super::args::TrainArgs;

/// Options that are keys of the configuration.
pub trait Keys: clap::Args {
    /// The keys that were given, as the configuration file would have them.
    fn given(&self) -> Vec<(&'static str, Value)>;
}

/// Arguments of a method: the shared ones, and its own keys.
#[derive(Clone, Debug, clap::Args)]
pub struct MethodArgs<K: Keys> {
    /// Options of every method.
    #[command(flatten)]
    pub shared: TrainArgs,
    /// Keys of the method.
    #[command(flatten)]
    pub keys: K,
}

/// Declares each key as an option (`learning_rate: f64` is `--learning-rate`) and lists those that were given. A key may
/// carry attributes of clap, such as `#[arg(value_delimiter = ',')]` for a list.
macro_rules! keys {
    ($(#[$doc:meta])* $heading:literal $name:ident: $($(#[$attribute:meta])* $key:ident: $kind:ty,)*) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, clap::Args)]
        #[command(next_help_heading = $heading)]
        pub struct $name {
            $(
                $(#[$attribute])*
                #[arg(long, value_name = "VALUE", allow_negative_numbers = true)]
                pub $key: Option<$kind>,
            )*
        }

        impl $crate::cli::train::keys::Keys for $name {
            fn given(&self) -> Vec<(&'static str, serde_json::Value)> {
                let mut given = Vec::new();
                $(
                    if let Some(value) = &self.$key {
                        given.push((stringify!($key), serde_json::json!(value)));
                    }
                )*
                given
            }
        }
    };
}
pub(super) use keys;
