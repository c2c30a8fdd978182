//! Tests of whole images. Those of parts lie beside the parts.

mod interop;
mod model;
mod support;
