//! Opening the socket that a server listens at.

use std::{io, net::TcpListener, os::fd::OwnedFd};

use strata_storage::nbd::wire::Address;

use crate::unix_socket::{SocketFile, bind};

/// A socket that listens.
pub struct Listener {
    pub socket: OwnedFd,
    /// Where it listens; the port that the host chose instead of 0.
    pub address: Address,
    /// Its name in the file system, if it has one.
    pub file: Option<SocketFile>,
}

/// Opens a listening socket. May block: on the resolver.
///
/// # Errors
/// The host's error.
pub fn listen(address: Address) -> io::Result<Listener> {
    match &address {
        Address::Unix(path) => {
            let (socket, file) = bind(path)?;
            Ok(Listener {
                socket: socket.into(),
                address,
                file: Some(file),
            })
        }
        Address::Tcp { host, port } => {
            let socket = TcpListener::bind((host.as_str(), *port))?;
            let (host, port) = (host.clone(), socket.local_addr()?.port());
            Ok(Listener {
                socket: socket.into(),
                address: Address::Tcp { host, port },
                file: None,
            })
        }
    }
}
