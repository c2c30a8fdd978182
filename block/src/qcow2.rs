//! qcow2: refused until the format lands.
#![allow(missing_docs)]

use crate::{
    error::{Error, IoResult, Result},
    exec::LocalBoxFuture,
    extent::Extent,
    mem::SgList,
    storage::Storage,
};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backing {
    pub name: String,
    pub format: Option<String>,
}

pub trait Below {
    fn read_below(&self, offset: u64, data: SgList) -> LocalBoxFuture<'_, IoResult<()>>;
}

#[derive(Default)]
pub struct CreateOptions {
    pub size: u64,
    pub cluster_size: u64,
    pub backing: Option<Backing>,
    pub version: u32,
}

#[derive(Default)]
pub struct OpenOptions {
    pub read_only: bool,
    pub cache_bytes: usize,
    pub discard: bool,
}

fn refused(file: &Storage) -> Error {
    Error::Image {
        file: file.path().to_owned(),
        why: "qcow2 cannot be used yet".to_owned(),
    }
}

pub async fn create(file: Storage, _options: CreateOptions) -> Result<()> {
    Err(refused(&file))
}

pub enum Qcow2 {}

impl Qcow2 {
    pub async fn open(file: Storage, _options: OpenOptions) -> Result<Self> {
        Err(refused(&file))
    }
    pub fn virtual_size(&self) -> u64 {
        match *self {}
    }
    pub fn cluster_size(&self) -> u64 {
        match *self {}
    }
    pub fn file(&self) -> &Storage {
        match *self {}
    }
    pub fn backing(&self) -> Option<Backing> {
        match *self {}
    }
    pub fn is_dirty(&self) -> bool {
        match *self {}
    }
    pub fn format_specific(&self) -> serde_json::Value {
        match *self {}
    }
    pub async fn extent(&self, _offset: u64, _len: u64) -> IoResult<Extent> {
        match *self {}
    }
    pub async fn read_compressed(&self, _offset: u64, _data: SgList) -> IoResult<()> {
        match *self {}
    }
    pub async fn write(&self, _offset: u64, _data: SgList, _below: &dyn Below) -> IoResult<()> {
        match *self {}
    }
    pub async fn write_if_unallocated(
        &self,
        _offset: u64,
        _data: SgList,
        _below: &dyn Below,
    ) -> IoResult<()> {
        match *self {}
    }
    pub async fn write_zeroes(
        &self,
        _offset: u64,
        _len: u64,
        _unmap: bool,
        _below: &dyn Below,
    ) -> IoResult<()> {
        match *self {}
    }
    pub async fn discard(&self, _offset: u64, _len: u64) -> IoResult<()> {
        match *self {}
    }
    pub async fn flush(&self) -> IoResult<()> {
        match *self {}
    }
    pub async fn set_backing(&self, _backing: Option<Backing>) -> Result<()> {
        match *self {}
    }
    pub async fn close(&self) -> Result<()> {
        match *self {}
    }
}
