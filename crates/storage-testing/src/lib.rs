//! The conformance suite, model and fault injectors for storage backends.
