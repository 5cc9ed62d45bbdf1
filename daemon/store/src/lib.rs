//! Journal, blobs and index that survive power cuts.
