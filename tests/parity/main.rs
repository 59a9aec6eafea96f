//! Numbers equal to PyTorch's, whatever shares the batch. Leaves HTTP to `end_to_end`.

mod comparing;
mod encoders;
mod engine;
mod gguf;
mod model;
mod process;
mod table;
mod text;
