//! The words that families of decoders are described in. Leaves the descriptions to `family`.

/// Where a yes or no of a family comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flag {
    /// Every model of the family.
    Always,
    /// No model of the family.
    Never,
    /// As this field of `config.json` says; absent is no.
    Field(&'static str),
    /// As this field of `config.json` says; absent is yes.
    FieldOrYes(&'static str),
}

/// Which layers attend to a window only, unless `layer_types` lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Windows {
    /// None.
    Never,
    /// All, if there is a `sliding_window`.
    All,
    /// With `use_sliding_window`: all.
    AllIfUsed,
    /// With `use_sliding_window`: those from `max_window_layers` up.
    UpperLayers,
    /// With `use_sliding_window`: those without a rotation.
    WithoutRotation,
    /// All but every n-th, as `sliding_window_pattern` says, or else this.
    AllBut(usize),
}

/// Which layers turn queries and keys, and how.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rotation {
    /// None: positions are learned.
    Never,
    /// All alike.
    All,
    /// Those that `no_rope_layers` marks with 1; if it is absent all but every n-th, as `no_rope_layer_interval` says.
    Marked,
    /// Layers with a window by a base of their own, `rope_local_base_freq`, or else this.
    ByWindow(f64),
}

/// What norms compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NormKind {
    /// Root mean square.
    Rms,
    /// Root mean square, with weights stored less one.
    RmsPlusOne,
    /// Mean and variance, with biases.
    Layer,
}

/// Norms of queries and keys before the rotation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkNorm {
    /// None.
    None,
    /// Of each head.
    Head,
    /// Of all heads together.
    Row,
}

/// A factor of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Factor {
    /// One.
    One,
    /// The root of the hidden size.
    RootOfHidden,
    /// What this field of `config.json` says; absent is one.
    Field(&'static str),
    /// One over what this field says; absent is one.
    Inverse(&'static str),
    /// One over the root of what this field says; absent is one over the root of the width of a head.
    InverseRoot(&'static str),
    /// One over the root of the width of a head.
    InverseRootOfHead,
}

/// How experts are counted and weighed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpertFields {
    /// Field with the number of experts.
    pub count: &'static str,
    /// Field with the width of an expert.
    pub intermediate_size: &'static str,
    /// The weights of the chosen experts are made to sum to one.
    pub normalised: Flag,
}
