//! Names of activations in `config.json`. Leaves what they compute to the kernels.

use rectify_kernels::Activation;

use super::backend::Result;
use super::fields::Fields;

/// Activations by the names of `transformers`, the first of each as we write it.
const ACTIVATIONS: [(&str, Activation); 8] = [
    ("silu", Activation::Silu),
    ("swish", Activation::Silu),
    ("gelu_pytorch_tanh", Activation::GeluTanh),
    ("gelu_new", Activation::GeluTanh),
    ("gelu_fast", Activation::GeluTanh),
    ("gelu", Activation::Gelu),
    ("gelu_python", Activation::Gelu),
    ("relu", Activation::Relu),
];

/// What `transformers` calls an activation.
pub(super) fn activation_name(activation: Activation) -> &'static str {
    ACTIVATIONS.iter().find(|(_, known)| *known == activation).map_or("silu", |(name, _)| name)
}

/// The activation named in `field`, `default` if it is absent.
pub(super) fn parse_activation(fields: &Fields, field: &str, default: Activation) -> Result<Activation> {
    let Some(name) = fields.string(field)? else { return Ok(default) };
    let known = ACTIVATIONS.iter().find(|(known, _)| *known == name);
    known.map(|(_, activation)| *activation).ok_or_else(|| {
        let known: Vec<&str> = ACTIVATIONS.iter().map(|(name, _)| *name).collect();
        fields.error(field, format!("is \"{name}\", which is not known; known are {}", known.join(", ")))
    })
}
