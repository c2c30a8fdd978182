//! The fixed ports of a channel, as an ISA adapter had them.

use std::sync::{Arc, Mutex, MutexGuard};

use super::{channel::Channel, lock, taskfile::port};
use crate::bus::BusDevice;

/// The command block.
pub struct CommandPorts(pub Arc<Mutex<Channel>>);

impl CommandPorts {
    /// Number of ports.
    pub const LEN: u64 = 8;

    fn channel(&self) -> MutexGuard<'_, Channel> {
        lock(&self.0)
    }
}

impl BusDevice for CommandPorts {
    fn read(&mut self, offset: u64, data: &mut [u8]) {
        let mut channel = self.channel();
        if offset == port::DATA {
            channel.read_data(data);
            return;
        }
        for (register, byte) in (offset..Self::LEN).zip(data) {
            *byte = channel.read_register(register);
        }
    }

    fn write(&mut self, offset: u64, data: &[u8]) {
        let mut channel = self.channel();
        if offset == port::DATA {
            channel.write_data(data);
            return;
        }
        for (register, &byte) in (offset..Self::LEN).zip(data) {
            channel.write_register(register, byte);
        }
    }

    /// A string instruction moves a whole block, and that need not go item by item.
    fn read_items(&mut self, offset: u64, size: usize, data: &mut [u8]) {
        if offset == port::DATA {
            self.channel().read_data(data);
        } else {
            data.chunks_mut(size)
                .for_each(|item| self.read(offset, item));
        }
    }

    fn write_items(&mut self, offset: u64, size: usize, data: &[u8]) {
        if offset == port::DATA {
            self.channel().write_data(data);
        } else {
            data.chunks(size).for_each(|item| self.write(offset, item));
        }
    }
}

/// The control block's one port: alternate status when read, device control when written.
pub struct ControlPort(pub Arc<Mutex<Channel>>);

impl ControlPort {
    /// Number of ports.
    pub const LEN: u64 = 1;
}

impl BusDevice for ControlPort {
    fn read(&mut self, _offset: u64, data: &mut [u8]) {
        let status = lock(&self.0).alternate_status();
        data.fill(status);
    }

    fn write(&mut self, _offset: u64, data: &[u8]) {
        if let [value] = *data {
            lock(&self.0).write_control(value);
        }
    }
}
