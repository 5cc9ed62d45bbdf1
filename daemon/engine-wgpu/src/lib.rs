//! The GPU engine: for now the inventory of adapters.
