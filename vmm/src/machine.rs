//! The machine: put together here, kept running by `control`.
//!
//! The thread that calls [`run`] becomes the device thread. It owns the block engine, the workers
//! of all disks and the event loop; vCPU threads and the monitor's reach it through `post`.

mod board;
mod console;
mod control;
pub(crate) mod disks;
mod firmware;
mod handle;
pub mod outcome;
mod post;
mod signals;
mod start;
mod vcpus;

use std::{
    io,
    os::{
        fd::{AsFd, AsRawFd},
        unix::net::UnixStream,
    },
    path::PathBuf,
    rc::Rc,
    sync::Arc,
    time::Instant,
};

use event_manager::{EventManager, MutEventSubscriber, SubscriberOps};
use kvm_ioctls::Kvm;
use strata_block::engine::Engine;
use strata_devices::{
    acpi::tables::Tables,
    fw_cfg::{FwCfg, FwCfgItems},
    legacy::serial::{Output, SerialInput},
};
use strata_exec::{Executor, mem::to_usize};
use vm_memory::{GuestAddress, GuestMemoryMmap};

use self::{
    board::{Board, BoardError},
    console::{Console, ConsoleError, Recorded},
    control::{Control, Rules, Watch},
    disks::{DiskError, Plug, Seats},
    firmware::BootOrder,
    handle::{Handle, State},
    outcome::Outcome,
    post::Inbox,
    signals::Signals,
    start::{Booted, Start},
    vcpus::{Buses, Setup, VcpuError, Vcpus},
};
pub use self::{
    console::Transcript,
    disks::DiskReport,
    vcpus::{Registers, VcpuReport},
};
pub(crate) use self::{
    console::{Keys, Patience, RawTerminal},
    post::{GuestEvent, Message, Post},
};
use crate::{
    boot::{BootError, RealModeKernel},
    cli::{RunArgs, serial::SerialEndpoint},
    guest_command::TestError,
    kvm::{
        self, KvmError,
        irq::Router,
        probe::{self, Unusable},
        raw::Vm,
        reset::ChipState,
    },
    layout,
    monitor::{self, Doors, Mailbox, Monitor, Notice, RunState},
    vhost_user,
};

/// Why a machine could not be started, or ended other than it should; one line for people.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// KVM cannot run guests here.
    #[error(transparent)]
    Unusable(#[from] Unusable),
    /// KVM refused something.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// The kernel or its initrd.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// No disk has anything that firmware could start.
    #[error(
        "no disk can be booted: none has a boot sector, or is a CD that can be booted; give one \
         that has, or a kernel with --kernel FILE"
    )]
    NothingToBoot,
    /// Two disks are to be booted first.
    #[error("two disks have bootindex={0}: give one of them another number")]
    BootIndexTaken(u32),
    /// The guest's memory.
    #[error("could not get {mib} MiB for the guest's memory: {source}")]
    Memory {
        /// MiB asked for.
        mib: u64,
        /// The host's error.
        source: vm_memory::mmap::FromRangesError,
    },
    /// The directory of `--state-dir`.
    #[error("--state-dir: {0}")]
    State(strata_storage::error::Error),
    /// The serial console.
    #[error(transparent)]
    Console(#[from] ConsoleError),
    /// A disk.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The built-in devices.
    #[error(transparent)]
    Board(#[from] BoardError),
    /// The vCPUs.
    #[error(transparent)]
    Vcpu(#[from] VcpuError),
    /// The monitor.
    #[error(transparent)]
    Monitor(#[from] monitor::StartError),
    /// An interrupt route, an eventfd or a pipe.
    #[error("could not {what}: {source}")]
    Host {
        /// What was tried.
        what: &'static str,
        /// The host's error.
        source: io::Error,
    },
    /// The exit port.
    #[error("--exit-port {0:#x}: another device has this port or one of the three behind it")]
    ExitPort(u16),
    /// The event loop.
    #[error("the event loop failed: {0}")]
    Events(event_manager::Error),
    /// A command could not be run in a guest.
    #[error(transparent)]
    Command(Box<TestError>),
    /// KVM gave up on the guest. The disks have been closed in the orderly way.
    #[error("the guest cannot go on: {0}")]
    Guest(String),
    /// Disks that could not be flushed or closed at the end.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Closing(Vec<strata_storage::error::Error>),
}

/// A core of the guest's memory could not be written; one line for people.
#[derive(Debug, thiserror::Error)]
#[error("could not write the core '{}': {source}", path.display())]
pub struct CoreError {
    /// Its file.
    pub path: PathBuf,
    /// The host's error.
    pub source: io::Error,
}

/// Says what was tried when a host call failed.
fn host(what: &'static str) -> impl Fn(io::Error) -> RunError {
    move |source| RunError::Host { what, source }
}

/// The host's end of the second serial port, for a guest that runs a command for us.
pub(crate) struct CommandPort {
    /// What the guest receives.
    pub input: UnixStream,
    /// Makes what takes what the guest sends.
    pub output: Box<dyn FnOnce(Post, Patience) -> Output>,
}

/// How a run ended, and what the machine was doing.
#[derive(Debug)]
pub struct Ended {
    /// How.
    pub outcome: Outcome,
    /// When the guest's kernel was entered first.
    pub started: Option<Instant>,
    /// When it was known that the run ends.
    pub ended: Instant,
    /// When the first request for a disk came.
    pub first_request: Option<Instant>,
    /// The vCPUs, where the outcome makes people ask.
    pub vcpus: Vec<VcpuReport>,
    /// The disks that devices have.
    pub disks: Vec<DiskReport>,
    /// The core that was written, or why it could not be; `None` where none was wanted.
    pub core: Option<Result<PathBuf, CoreError>>,
}

/// Boots a guest and returns when it has powered off, or the run ends for another reason. What it
/// prints goes to `transcript`, too. The time that a run may take has begun at `begin`.
///
/// # Errors
/// [`RunError`].
pub fn run(
    args: &RunArgs,
    serial: &SerialEndpoint,
    transcript: &Transcript,
    begin: Instant,
) -> Result<Ended, RunError> {
    run_with(args, serial, transcript, begin, None)
}

/// The same with a second serial port, for a guest that runs a command for us.
///
/// # Errors
/// [`RunError`].
pub(crate) fn run_with(
    args: &RunArgs,
    serial: &SerialEndpoint,
    transcript: &Transcript,
    begin: Instant,
    command: Option<CommandPort>,
) -> Result<Ended, RunError> {
    let mut booted = Booted::open(args)?;
    let kvm = probe::open()?;
    let (post, inbox) = Inbox::new().map_err(host("make an eventfd"))?;
    let mailbox = Mailbox::new().map_err(host("make an eventfd"))?;
    let notifier = mailbox.notifier();
    // Before sockets of our own can take a number that `fd:N` means.
    let doors = Doors::open(&args.all_monitors())?;
    let (console, output) = Console::open(serial)?;
    let output = Box::new(Recorded::new(output, transcript.clone(), post.clone()));
    let hurry = console.hurry();

    let mut hardware = Hardware::new(args, &kvm, booted.rom()?, &post, output)?;
    if let Some(option) = args.ending.exit_port {
        Board::add_exit_port(&mut hardware.buses, &post, option)
            .map_err(|_| RunError::ExitPort(option.port))?;
    }
    if args.test_device {
        Board::add_test_device(&mut hardware.buses, &hardware.router, &hardware.vm)
            .map_err(BoardError::from)?;
    }
    let command = command
        .map(|command| hardware.add_command_port(command, &post, console.patience()))
        .transpose()?;
    let (clients, held) = (notifier.clone(), post.clone());
    let engine = Engine::new(move |event| {
        let stops = event.stops_guest();
        // The error is reported to clients before the event that the guest has been stopped.
        clients.notify(Notice::Block(event));
        if stops {
            held.guest(GuestEvent::RequestHeld);
        }
    })
    .map_err(host("make an eventfd"))?;
    engine.serve_vhost_user_with(vhost_user::serve);
    let exec = Rc::clone(engine.exec());
    let (workers, meters) = disks::attach(
        &engine,
        (&args.disks, &args.temporary),
        &mut hardware.seats(args.machine.cpus, &exec),
    )?;
    args.state.keep_jobs(&engine).map_err(RunError::State)?;
    match &mut booted {
        Booted::Firmware(_, kernel) => {
            hardware.describe_to_firmware(args, &engine, kernel.take())?;
        }
        Booted::Kernel(_) => hardware.describe_to_kernel(args)?,
    }
    let mut start = Start {
        booted,
        memory: Arc::clone(&hardware.memory),
        size: args.machine.memory,
        tables: Tables::build(args.machine.cpus),
        smbios: firmware::smbios(&args.machine).at_its_address(),
    };
    let entry = start.load()?;

    let state = State::new(RunState::Prelaunch);
    let handle = Handle::new(post.clone(), state.clone());
    // Serves its clients until this function returns.
    let _monitor = Monitor::start(doors, Box::new(handle), mailbox)?;
    let setup = Setup {
        kvm,
        vm: Arc::clone(&hardware.vm),
        buses: Arc::new(hardware.buses),
        post: post.clone(),
    };
    let vcpus = Vcpus::new(&setup, args.machine.cpus)?;
    vcpus.reset(entry)?;

    let mut subscribers: Vec<Box<dyn MutEventSubscriber>> = vec![
        Box::new(Signals::catch(post.clone()).map_err(host("catch signals"))?),
        Box::new(Watch::file(inbox.as_fd().as_raw_fd())),
        Box::new(Watch::file(engine.event_fd())),
        Box::new(hardware.board.clock()),
    ];
    subscribers.extend(workers.iter().map(disks::Worker::subscriber));
    subscribers.extend(command);
    subscribers.extend(console.input(Arc::clone(&hardware.board.serial), post));
    let control = Control::new(control::Parts {
        vcpus,
        events: event_loop(subscribers)?,
        engine,
        workers,
        meters,
        board: hardware.board,
        plug: Plug {
            router: hardware.router,
            memory: hardware.memory,
            cpus: args.machine.cpus,
            exec,
            temporary: args.temporary.clone(),
        },
        chips: ChipState::save(&hardware.vm.fd)?,
        vm: hardware.vm,
        start,
        inbox,
        hurry,
        state,
        notifier,
        transcript: transcript.clone(),
        core: args.report.core.clone(),
        rules: Rules {
            on_reset: args.ending.on_reset(),
            on_panic: args.ending.on_panic,
            limit: args.ending.timeout.map(|limit| (limit, begin + limit)),
        },
    });
    control.run(args.paused)
}

/// An event loop with its subscribers.
fn event_loop(
    subscribers: Vec<Box<dyn MutEventSubscriber>>,
) -> Result<EventManager<Box<dyn MutEventSubscriber>>, RunError> {
    let mut events = EventManager::new().map_err(RunError::Events)?;
    for subscriber in subscribers {
        events.add_subscriber(subscriber);
    }
    Ok(events)
}

/// The machine without its disks and vCPUs.
struct Hardware {
    vm: Arc<Vm>,
    memory: Arc<GuestMemoryMmap>,
    router: Arc<Router>,
    buses: Buses,
    board: Board,
}

impl Hardware {
    /// Memory, interrupt controllers and the built-in devices.
    fn new(
        args: &RunArgs,
        kvm: &Kvm,
        rom: Option<GuestMemoryMmap>,
        post: &Post,
        output: Output,
    ) -> Result<Self, RunError> {
        let memory = Arc::new(allocate(args.machine.memory, rom.is_some())?);
        let vm = Arc::new(kvm::create_vm(kvm, GuestMemoryMmap::clone(&memory), rom)?);
        let router = Router::new(Arc::clone(&vm)).map_err(host("route interrupts"))?;
        let mut buses = Buses::default();
        let board = Board::new(&mut buses, &router, &vm, post, args.machine.memory, output)?;
        Ok(Self {
            vm,
            memory,
            router,
            buses,
            board,
        })
    }

    /// Adds the port over which a command's streams travel; what feeds it on the event loop.
    fn add_command_port(
        &mut self,
        command: CommandPort,
        post: &Post,
        patience: Patience,
    ) -> Result<Box<dyn MutEventSubscriber>, BoardError> {
        let output = (command.output)(post.clone(), patience);
        let port = self
            .board
            .add_command_port(&mut self.buses, &self.router, output)?;
        Ok(Box::new(SerialInput::new(port, command.input)))
    }

    /// Adds what firmware learns about the machine from, and the kernel that it is to start rather
    /// than what is on the disks. Those are open.
    fn describe_to_firmware(
        &mut self,
        args: &RunArgs,
        engine: &Rc<Engine>,
        kernel: Option<RealModeKernel>,
    ) -> Result<(), RunError> {
        let order = BootOrder::of(engine, &args.disks);
        if let Some(index) = order.index_given_twice() {
            return Err(RunError::BootIndexTaken(index));
        }
        // Firmware of the user's own may know what to do without.
        if args.firmware.is_none() && kernel.is_none() && !order.leads_somewhere() {
            return Err(RunError::NothingToBoot);
        }
        self.add_items(firmware::items(args, &order, kernel))
    }

    /// Adds what test kernels ask, how many processors there are among it; other kernels do not
    /// look.
    fn describe_to_kernel(&mut self, args: &RunArgs) -> Result<(), RunError> {
        let machine = &args.machine;
        self.add_items(FwCfgItems::new(machine.memory, machine.cpus))
    }

    fn add_items(&mut self, items: FwCfgItems) -> Result<(), RunError> {
        let fw_cfg = FwCfg::new(items, Arc::clone(&self.memory));
        let added = self.board.add_firmware(&mut self.buses, fw_cfg);
        added.map_err(|overlap| BoardError::from(overlap).into())
    }

    /// Where disks' devices are put, for a guest with `cpus` processors; their requests run on
    /// `exec`.
    fn seats<'a>(&'a mut self, cpus: u8, exec: &'a Rc<Executor>) -> Seats<'a> {
        Seats {
            exec,
            board: &mut self.board,
            buses: &mut self.buses,
            router: &self.router,
            memory: &self.memory,
            cpus,
        }
    }
}

/// Address space for the guest's memory; the host gives pages as the guest touches them. Where
/// firmware lies at the reset vector there is none for programs.
fn allocate(size: u64, has_firmware: bool) -> Result<GuestMemoryMmap, RunError> {
    let mut ranges = layout::memory_ranges(size);
    if !has_firmware {
        ranges.push(layout::RESET_PAGE);
        ranges.sort_unstable();
    }
    let ranges: Vec<_> = ranges
        .into_iter()
        .map(|(start, len)| (GuestAddress(start), to_usize(len)))
        .collect();
    GuestMemoryMmap::from_ranges(&ranges).map_err(|source| RunError::Memory {
        mib: size >> 20,
        source,
    })
}
