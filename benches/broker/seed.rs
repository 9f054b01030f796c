//! Many instances that have no containers: rows written beside a running broker.
//!
//! They are copies of one that the broker made itself. Only two things are known here of how it
//! keeps them: the place that a secret is sealed for (`instance:<id>`), and that a plan is stored
//! under the hash that its instances name. A request on a row that is wrong fails the benchmark.

use std::path::Path;

use anyhow::{Context, Result};
use docker_broker::{
    credentials::Keyring,
    store::{InstanceRow, OperationRow, RowError, Store},
};

use crate::process::KEY;

const CONTAINER_PORT: &str = "6379/tcp";
/// Beyond the ports that brokers here really use.
const PORTS: (u16, u16) = (40_000, 59_999);

/// Host port of a seeded instance, in a store that had none of these.
pub(crate) fn port(number: usize) -> Result<u16> {
    Ok(PORTS.0 + u16::try_from(number)?)
}

/// One instance, taken apart.
pub(crate) struct Template {
    row: InstanceRow,
    definition: Vec<u8>,
    secret: Vec<u8>,
    operation: OperationRow,
}

/// Id of a seeded instance.
pub(crate) fn id(number: usize) -> String {
    format!("seed-{number:05}")
}

fn place(id: &str) -> String {
    format!("instance:{id}")
}

fn run<T>(task: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().build()?.block_on(task)
}

impl Template {
    /// Of an instance in the store of this data directory.
    pub(crate) fn of(data: &Path, instance: &str) -> Result<Self> {
        let id = instance.to_owned();
        run(async {
            let store = Store::open(data)?;
            let found = store.read(move |rows| {
                let Some(row) = rows.find_instance(&id)? else { return Ok(None) };
                let definition = rows.find_definition(&row.definition_hash)?;
                let operation = rows.find_last_operation(&id, None)?;
                Ok(definition.zip(operation).map(|(definition, op)| (row, definition, op)))
            });
            let (row, definition, operation) = found.await?.context("no such instance")?;
            let secret = Keyring::new([KEY])?.open(&place(&row.id), &row.sealed)?;
            Ok(Self { row, definition, secret, operation })
        })
    }

    /// Adds `count` instances like it, each with a port and a finished provision.
    pub(crate) fn seed(&self, data: &Path, count: usize) -> Result<()> {
        let keys = Keyring::new([KEY])?;
        let copies: Vec<(InstanceRow, OperationRow)> = (0..count)
            .map(|number| {
                let (id, mut row) = (id(number), self.row.clone());
                row.sealed = keys.seal(&place(&id), &self.secret)?;
                row.name = format!("i-{id}");
                row.id.clone_from(&id);
                let mut operation = self.operation.clone();
                operation.id = format!("provision-{id}");
                operation.instance_id = id;
                anyhow::Ok((row, operation))
            })
            .collect::<Result<_>>()?;
        let (hash, definition) = (self.row.definition_hash.clone(), self.definition.clone());
        run(async {
            let store = Store::open(data)?;
            let written = store.write(move |rows| {
                rows.insert_definition(&hash, &definition)?;
                for (row, operation) in &copies {
                    rows.insert_instance(row)?;
                    rows.reserve_port(&row.id, "tcp", CONTAINER_PORT, PORTS)?;
                    rows.insert_operation(operation)?;
                }
                Ok::<_, RowError>(Ok::<_, std::convert::Infallible>(()))
            });
            Ok(written.await??)
        })
    }
}
