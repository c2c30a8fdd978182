//! The monitor: one thread that speaks QMP and HMP to clients and passes values to the machine.
