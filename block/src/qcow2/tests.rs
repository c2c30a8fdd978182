//! Tests of whole images. Those of parts lie beside the parts.

mod crash;
mod interop;
mod model;
mod order;
mod support;
