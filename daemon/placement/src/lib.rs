//! Measures a bundle on this hardware and chooses the engine setting.
