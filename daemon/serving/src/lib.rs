//! Routes predictions: Open Inference Protocol, switching without a failed request.
