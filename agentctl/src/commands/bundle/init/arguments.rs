//! What `bundle init` is asked.

use std::path::PathBuf;

use agentd_types::ModelName;

const HELP: &str = "Golden vectors are inputs and the outputs that the model gives for them; a device must reproduce \
    them before it serves. Give real inputs:\n  \
    FILE.npy   an array of the input's datatype and shape; a missing first dimension is added\n  \
    FILE.png   scaled to the input's height and width, as grey or RGB by its channels; floats are 0 to 1\n  \
    FILE.wav   channels averaged, -1 to 1, cut or filled with silence to the input's length; not resampled\n\
    For a model of several inputs, name them: x=a.npy,y=b.npy\n\n\
    Examples:\n  \
    agentctl bundle init crack.onnx --golden samples/*.png\n  \
    agentctl bundle init text.onnx --name shop/text --golden ids=a.npy,mask=b.npy --out text\n  \
    agentctl bundle init any.onnx --random-golden 3 --shape images=1,3,640,640";

/// The `bundle init` command.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP)]
pub(crate) struct Args {
    /// The ONNX file.
    #[arg(value_name = "MODEL.onnx")]
    pub(super) model: PathBuf,
    /// The model's name; otherwise demo/ and the file's name.
    #[arg(long, value_name = "NAME")]
    pub(super) name: Option<ModelName>,
    /// Inputs to make golden vectors of.
    #[arg(long, value_name = "FILE|NAME=FILE,..", num_args = 1.., required_unless_present = "random_golden")]
    pub(super) golden: Vec<String>,
    /// Make golden vectors of so many pseudo-random inputs: they show that engines agree, not that answers are right.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64), conflicts_with = "golden")]
    pub(super) random_golden: Option<u16>,
    /// Give the free dimensions of an input sizes, for random golden vectors.
    #[arg(long, value_name = "NAME=1,3,224,224")]
    pub(super) shape: Vec<String>,
    /// The seed of pseudo-random inputs.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(super) seed: u64,
    /// The folder to write; otherwise the last part of the name.
    #[arg(long, value_name = "FOLDER")]
    pub(super) out: Option<PathBuf>,
}
