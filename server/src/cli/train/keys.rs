//! Keys of a configuration as options of the command line: the macro that declares them, and a method's arguments as
//! the shared ones beside its own. Leaves what keys mean to the trainer.

use clap::{Arg, ArgAction, ArgMatches, Command, FromArgMatches};
use serde_json::Value;

use super::args::TrainArgs;

/// Options that are keys of the configuration.
pub trait Keys: clap::Args {
    /// The keys that were given, as the configuration file would have them.
    fn given(&self) -> Vec<(&'static str, Value)>;
}

/// Arguments of a method: the shared ones, and its own keys.
#[derive(Clone, Debug)]
pub struct MethodArgs<K: Keys> {
    /// Options of every method.
    pub shared: TrainArgs,
    /// Keys of the method.
    pub keys: K,
}

impl<K: Keys> FromArgMatches for MethodArgs<K> {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self { shared: TrainArgs::from_arg_matches(matches)?, keys: K::from_arg_matches(matches)? })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        self.shared.update_from_arg_matches(matches)?;
        self.keys.update_from_arg_matches(matches)
    }
}

impl<K: Keys> clap::Args for MethodArgs<K> {
    fn augment_args(command: Command) -> Command {
        K::augment_args(TrainArgs::augment_args(command)).mut_args(bare_if_bool)
    }

    fn augment_args_for_update(command: Command) -> Command {
        K::augment_args_for_update(TrainArgs::augment_args_for_update(command)).mut_args(bare_if_bool)
    }
}

/// `--packing` alone is `--packing true`.
fn bare_if_bool(arg: Arg) -> Arg {
    let is_key = matches!(arg.get_action(), ArgAction::Set);
    if is_key && arg.get_value_parser().type_id() == std::any::TypeId::of::<bool>() {
        arg.num_args(0..=1).default_missing_value("true").value_name("true|false")
    } else {
        arg
    }
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
