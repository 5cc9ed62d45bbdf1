//! Packs, chunks, signs and proves model bundles; trust and its rotation.
