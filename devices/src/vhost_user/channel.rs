//! The back-end channel: what the device sends to the front end unasked.

use std::{
    io, mem,
    os::fd::OwnedFd,
    sync::{Mutex, MutexGuard, PoisonError},
};

use rustix::net::{SendFlags, send};
use vhost::vhost_user::message::{BackendReq, FrontendReq, VhostUserProtocolFeatures};

/// In a message's flags: version 1 of the protocol, no answer wanted.
const FLAGS: u32 = 1;

/// The back-end request channel of the front end that is connected, if it has given one.
#[derive(Default)]
pub struct Channel {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// It has accepted the protocol feature CONFIG.
    config: bool,
    socket: Option<OwnedFd>,
    /// It has been notified since a ring was started.
    notified: bool,
}

impl Channel {
    /// Looks at a message of the front end: at what it says of the channel. Whether that is in
    /// order the library finds out, which ends the connection if it is not.
    ///
    /// QEMU (7.2) does not listen while its device stands still, as that of a paused guest does; so
    /// it is notified once more when it starts a ring.
    pub fn look_at(&self, request: u32, body: &[u8], descriptors: &[OwnedFd]) -> io::Result<()> {
        let mut state = self.state();
        if request == u32::from(FrontendReq::SET_PROTOCOL_FEATURES)
            && let Ok(features) = body.try_into()
        {
            let config = VhostUserProtocolFeatures::CONFIG.bits();
            state.config = u64::from_ne_bytes(features) & config != 0;
        }
        if request == u32::from(FrontendReq::SET_BACKEND_REQ_FD)
            && let [socket] = descriptors
        {
            state.socket = Some(socket.try_clone()?);
        }
        if request == u32::from(FrontendReq::SET_VRING_KICK) && mem::take(&mut state.notified) {
            state.notify();
        }
        Ok(())
    }

    /// The front end has gone.
    pub fn forget(&self) {
        *self.state() = State::default();
    }

    /// Tells the front end to read the device configuration again
    /// (`VHOST_USER_BACKEND_CONFIG_CHANGE_MSG`). Does not wait for it.
    pub fn config_changed(&self) {
        let mut state = self.state();
        state.notified = true;
        state.notify();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn notify(&self) {
        let Some(socket) = self.socket.as_ref().filter(|_| self.config) else {
            return;
        };
        let body_len = 0;
        let header = [BackendReq::CONFIG_CHANGE_MSG.into(), FLAGS, body_len];
        let message = header.map(u32::to_ne_bytes);
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match send(socket, message.as_flattened(), flags) {
            // It has not read the last notification: it will still look.
            Ok(_) | Err(rustix::io::Errno::AGAIN) => {}
            Err(error) => tracing::warn!(%error, "a vhost-user front end could not be told"),
        }
    }
}
