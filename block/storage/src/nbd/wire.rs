//! What both sides of an NBD connection share, the client beside this module and the server of
//! the block layer: addresses, the protocol's words, byte streams, TLS.

mod address;
pub mod proto;
pub mod stream;
mod tls;

pub use address::{Address, BadAddress};
pub use tls::{TlsClient, TlsError, TlsServer};
