//! What differs between the layers of a decoder: windows, rotations, experts. Leaves the rest of `config.json` to
//! `config`.

use serde_json::Value;

use super::backend::Result;
use super::family::{Family, Rotation, Windows};
use super::fields::Fields;
use super::rope::{Rope, Shape};

/// What differs between layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerConfig {
    /// Last tokens that it attends to; `None` is all of them.
    pub window: Option<usize>,
    /// Which of [`ModelConfig::ropes`] turns its queries and keys; `None` is none.
    pub rope: Option<usize>,
    /// A mixture of experts in the MLP's place.
    pub has_experts: bool,
}

/// The rotations there are, and what differs between layers.
pub(super) fn parse_layers(
    fields: &Fields,
    family: &Family,
    num_layers: usize,
    shape: &Shape,
) -> Result<(Vec<Rope>, Vec<LayerConfig>)> {
    let turns = parse_turns(fields, family, num_layers)?;
    let windows = parse_windows(fields, family, &turns)?;
    let ropes = parse_ropes(fields, family, shape)?;
    let by_window = ropes.len() > 1;
    let has_experts = parse_expert_layers(fields, family, num_layers)?;
    let layer = |i: usize| LayerConfig {
        window: windows[i],
        rope: turns[i].then_some(usize::from(by_window && windows[i].is_some())),
        has_experts: has_experts[i],
    };
    Ok((ropes, (0..num_layers).map(layer).collect()))
}

/// Which layers turn queries and keys.
fn parse_turns(fields: &Fields, family: &Family, num_layers: usize) -> Result<Vec<bool>> {
    const FIELD: &str = "no_rope_layers";
    match family.rotation {
        Rotation::Never => return Ok(vec![false; num_layers]),
        Rotation::All | Rotation::ByWindow(_) => return Ok(vec![true; num_layers]),
        Rotation::Marked => {}
    }
    let Some(marks) = fields.numbers(FIELD)? else {
        let interval = fields.size("no_rope_layer_interval")?.unwrap_or(4);
        return Ok((1..=num_layers).map(|layer| layer % interval != 0).collect());
    };
    if marks.len() != num_layers {
        let message = format!("has {} entries, but there are {num_layers} layers", marks.len());
        return Err(fields.error(FIELD, message));
    }
    Ok(marks.into_iter().map(|mark| mark != 0.0).collect())
}

/// `rope_parameters` of `transformers` 5, or `rope_theta` and `rope_scaling` before it; with two kinds of layers the
/// rotation of those without a window comes first.
fn parse_ropes(fields: &Fields, family: &Family, shape: &Shape) -> Result<Vec<Rope>> {
    if family.rotation == Rotation::Never {
        return Ok(Vec::new());
    }
    let parameters = fields.object("rope_parameters")?;
    let theta = fields.positive("rope_theta")?.unwrap_or(family.rope_theta);
    let scaling = fields.object("rope_scaling")?;
    let Rotation::ByWindow(local_theta) = family.rotation else {
        return Ok(vec![Rope::parse(fields, parameters.or(scaling).as_ref(), theta, shape)?]);
    };
    let kind = |name| parameters.as_ref().map(|kinds| kinds.object(name)).transpose().map(Option::flatten);
    let (global, local) = (kind("full_attention")?.or(scaling), kind("sliding_attention")?);
    let local_theta = fields.positive("rope_local_base_freq")?.unwrap_or(local_theta);
    Ok(vec![
        Rope::parse(fields, global.as_ref(), theta, shape)?,
        Rope::parse(fields, local.as_ref(), local_theta, shape)?,
    ])
}

/// Which layers have experts: all, but for those that `mlp_only_layers` and `decoder_sparse_step` leave out.
fn parse_expert_layers(fields: &Fields, family: &Family, num_layers: usize) -> Result<Vec<bool>> {
    if family.experts.is_none() {
        return Ok(vec![false; num_layers]);
    }
    let dense = fields.numbers("mlp_only_layers")?.unwrap_or_default();
    let step = fields.size("decoder_sparse_step")?.unwrap_or(1);
    Ok((0..num_layers).map(|i| !dense.contains(&(i as f64)) && (i + 1) % step == 0).collect())
}

fn parse_windows(fields: &Fields, family: &Family, turns: &[bool]) -> Result<Vec<Option<usize>>> {
    let num_layers = turns.len();
    let full = vec![None; num_layers];
    let rule = family.windows;
    let switched = matches!(rule, Windows::AllIfUsed | Windows::UpperLayers | Windows::WithoutRotation);
    let used =
        if switched { fields.flag("use_sliding_window")?.unwrap_or(false) } else { rule != Windows::Never };
    if !used {
        return Ok(full);
    }
    let Some(window) = fields.size("sliding_window")? else { return Ok(full) };
    let some = |has: bool| has.then_some(window);
    let Some(kinds) = fields.strings("layer_types")? else {
        let size = |field, default: usize| match fields.get(field).and_then(Value::as_u64) {
            Some(size) => size as usize,
            None => default,
        };
        let upper = size("max_window_layers", family.max_window_layers);
        return Ok(match rule {
            Windows::Never => full,
            Windows::All | Windows::AllIfUsed => vec![Some(window); num_layers],
            Windows::UpperLayers => (0..num_layers).map(|layer| some(layer >= upper)).collect(),
            Windows::WithoutRotation => turns.iter().map(|turns| some(!turns)).collect(),
            Windows::AllBut(n) => {
                let n = size("sliding_window_pattern", n).max(1);
                (1..=num_layers).map(|layer| some(layer % n != 0)).collect()
            }
        });
    };
    if kinds.len() != num_layers {
        let message = format!("has {} entries, but num_hidden_layers is {num_layers}", kinds.len());
        return Err(fields.error("layer_types", message));
    }
    let one = |kind: &str| match kind {
        "full_attention" => Ok(None),
        "sliding_attention" => Ok(Some(window)),
        other => Err(fields.error(
            "layer_types",
            format!("holds \"{other}\", but only full_attention and sliding_attention are known"),
        )),
    };
    kinds.into_iter().map(one).collect()
}
