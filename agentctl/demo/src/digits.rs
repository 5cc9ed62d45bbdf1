//! The held-out digits: images that neither version of the model has seen, with their labels.
//!
//! In: `tests/digits/heldout`. Out: images as 64 numbers in 0..=1, and pictures of them in characters.

use std::{fs, path::Path};

use agentd_engine::{Tensor, read_npy};
use agentd_types::Datatype;
use anyhow::{Context as _, Result, ensure};

/// Height and width of an image, in pixels.
pub(crate) const SIDE: usize = 8;

/// One image and the digit that it shows.
#[derive(Clone, Debug)]
pub(crate) struct Digit {
    /// Ink per pixel, 0 to 1, row by row, [`SIDE`] x [`SIDE`].
    pub(crate) pixels: Vec<f32>,
    pub(crate) label: u8,
}

/// Reads the images and labels in `folder`.
pub(crate) fn read(folder: &Path) -> Result<Vec<Digit>> {
    let images = read_tensor(&folder.join("images.npy"), Datatype::Fp32, &[1, SIDE, SIDE])?;
    let labels = read_tensor(&folder.join("labels.npy"), Datatype::Uint8, &[])?;
    ensure!(
        images.shape.first() == labels.shape.first(),
        "as many labels as images are in `{}`",
        folder.display()
    );
    let pixels: Vec<f32> = images.bytes.as_chunks().0.iter().copied().map(f32::from_le_bytes).collect();
    let digits = pixels.chunks_exact(SIDE * SIDE).zip(&labels.bytes);
    Ok(digits.map(|(pixels, label)| Digit { pixels: pixels.to_vec(), label: *label }).collect())
}

fn read_tensor(path: &Path, datatype: Datatype, rest: &[usize]) -> Result<Tensor> {
    let bytes = fs::read(path).with_context(|| format!("cannot read `{}`", path.display()))?;
    let tensor = read_npy(&bytes).with_context(|| format!("cannot understand `{}`", path.display()))?;
    let fits = tensor.datatype == datatype && tensor.shape.get(1..) == Some(rest);
    ensure!(fits, "`{}` holds {} of shape {:?}", path.display(), tensor.datatype, tensor.shape);
    Ok(tensor)
}

/// Draws digits side by side, two rows of pixels in a line of text.
pub(crate) fn draw<'a>(digits: impl Iterator<Item = &'a Digit> + Clone) -> Vec<String> {
    (0..SIDE / 2)
        .map(|row| digits.clone().map(|digit| draw_row(&digit.pixels, row)).collect::<Vec<_>>().join("  "))
        .collect()
}

fn draw_row(pixels: &[f32], row: usize) -> String {
    let ink = |y: usize, x: usize| pixels.get(y * SIDE + x).is_some_and(|ink| *ink > 0.4);
    let cell = |x| match (ink(2 * row, x), ink(2 * row + 1, x)) {
        (true, true) => '█',
        (true, false) => '▀',
        (false, true) => '▄',
        (false, false) => ' ',
    };
    (0..SIDE).map(cell).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shipped_digits_can_be_read_and_drawn() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/digits/heldout");
        let digits = read(&folder).unwrap();
        assert_eq!(digits.len(), 360);
        assert!(digits.iter().all(|digit| digit.pixels.len() == SIDE * SIDE && digit.label < 10));
        let rows = draw(digits[..2].iter());
        assert_eq!(rows.len(), SIDE / 2);
        assert!(rows.iter().all(|row| row.chars().count() == 2 * SIDE + 2));
    }
}
