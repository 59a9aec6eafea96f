//! Weights and their gradients, by name. Leaves what is done with them to the tape and the optimiser.

/// Number of a weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ParamId(pub(super) usize);

/// A tensor of a checkpoint inside a weight: matrices that read the same input are one weight, stacked along the output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Name in a checkpoint.
    pub name: String,
    /// Shape there.
    pub shape: Vec<usize>,
}

impl Part {
    /// Elements.
    pub fn num_elements(&self) -> usize {
        self.shape.iter().product()
    }
}

/// A weight.
#[derive(Clone, Debug)]
pub struct Param {
    /// What it is made of, in order.
    pub parts: Vec<Part>,
    /// Values.
    pub data: Vec<f32>,
    /// Sum of gradients since [`Params::zero_grad`]; empty if frozen.
    pub grad: Vec<f32>,
    /// A matrix: weight decay applies.
    pub decay: bool,
}

impl Param {
    /// Is trained.
    pub fn is_trainable(&self) -> bool {
        !self.grad.is_empty()
    }
}

/// All weights of a model, in the order they were made.
#[derive(Clone, Debug, Default)]
pub struct Params {
    params: Vec<Param>,
}

impl Params {
    pub(super) fn add(&mut self, parts: Vec<Part>, data: Vec<f32>, trainable: bool, decay: bool) -> ParamId {
        let grad = if trainable { vec![0.0; data.len()] } else { Vec::new() };
        self.params.push(Param { parts, data, grad, decay });
        ParamId(self.params.len() - 1)
    }

    pub(super) fn get(&self, id: ParamId) -> &Param {
        &self.params[id.0]
    }

    pub(super) fn get_mut(&mut self, id: ParamId) -> &mut Param {
        &mut self.params[id.0]
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Param> {
        self.params.iter()
    }

    /// Those that are trained.
    pub fn trainable(&self) -> impl Iterator<Item = &Param> {
        self.params.iter().filter(|param| param.is_trainable())
    }

    /// Those that are trained.
    pub fn trainable_mut(&mut self) -> impl Iterator<Item = &mut Param> {
        self.params.iter_mut().filter(|param| param.is_trainable())
    }

    /// Sets all gradients to zero.
    pub fn zero_grad(&mut self) {
        self.trainable_mut().for_each(|param| param.grad.fill(0.0));
    }

    /// Numbers in all weights.
    pub fn num_elements(&self) -> usize {
        self.params.iter().map(|param| param.data.len()).sum()
    }

    /// Numbers in trained weights.
    pub fn num_trainable(&self) -> usize {
        self.trainable().map(|param| param.data.len()).sum()
    }

    /// Tensors of a checkpoint: part, values and whether they are trained.
    pub fn tensors(&self) -> impl Iterator<Item = (&Part, &[f32], bool)> {
        self.params.iter().flat_map(|param| {
            let mut from = 0;
            param.parts.iter().map(move |part| {
                let to = from + part.num_elements();
                let values = &param.data[from..to];
                from = to;
                (part, values, param.is_trainable())
            })
        })
    }
}
