//! Reads the structure of an ONNX file without an engine, and refuses hostile ones.
