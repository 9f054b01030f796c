//! The guard between data of one major version and an image of another.
//!
//! Most servers refuse data of another major version, and some take it and cannot give it back. So
//! both versions are read before anything is touched. A plan with a `migrate` hook has the data
//! made over, after a copy of it was kept, in a container of the new image in which no server runs.

use std::time::Duration;

use super::{
    Broker,
    error::{Failure, InternalError},
    hook_input::HookInput,
    instance::Instance,
    retry::{check, while_unreachable},
    work::Context,
};
use crate::{
    catalog::{Action, DataVersion, ImageVersion, Plan, RestartPolicy, major},
    docker::{ImageFacts, OneOff},
};

/// Most of a file that says a version.
const MAX_FILE_BYTES: u64 = 256 << 10;
/// How long a program may take to say its version.
const SAY_VERSION: Duration = Duration::from_mins(1);
/// Why a migration is taken back of which nobody knows how far it got.
pub(super) const INTERRUPTED: &str = "the migration hook was interrupted";
/// Such a container is never taken for the instance's own, whatever it is renamed to.
const NOT_A_GENERATION: i64 = 0;
/// What runs in a container in which a hook is to run, and nothing else.
const IDLE: [&str; 3] = ["/bin/sh", "-c", "exec sleep 2147483647"];

/// Data of one major version and an image of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Migration {
    pub(super) data: u64,
    pub(super) image: u64,
}

/// Name of the container that says which version an image is of.
pub(super) fn probe_name(container: &str) -> String {
    format!("{container}.probe")
}

/// Name of the container in which the migration hook runs.
pub(super) fn migrate_name(container: &str) -> String {
    format!("{container}.migrate")
}

/// A migration, if the plan has a hook for it, else why not.
fn judge(plan: &Plan, data: u64, image: u64) -> Result<Option<Migration>, String> {
    if data == image {
        return Ok(None);
    }
    if plan.lifecycle.migrate.is_some() {
        return Ok(Some(Migration { data, image }));
    }
    Err(format!(
        "the data of the service instance is of version {data}, but image {} is of version \
         {image}, which cannot use it; dump the data and load it into a new service instance, or \
         ask the operator to give plan {:?} a migrate hook",
        plan.container.image, plan.name
    ))
}

impl Broker {
    /// The major version of an instance's data, as this plan tells it; `None`: it has no data.
    async fn data_version(
        &self,
        instance_name: &str,
        plan: &Plan,
        version: &DataVersion,
    ) -> Result<Option<u64>, Failure> {
        let volumes = &plan.container.volumes;
        let holds =
            |path: &str| version.file.strip_prefix(path).is_some_and(|r| r.starts_with('/'));
        let volume = volumes.iter().find(|volume| holds(&volume.path)).cloned();
        let (disk, name, file) =
            (self.disk.clone(), instance_name.to_owned(), version.file.clone());
        let read = tokio::task::spawn_blocking(move || {
            let text = disk.read_in_volumes(&name, &file, MAX_FILE_BYTES)?;
            let paths = disk.paths(&name, volume.as_slice())?;
            let is_empty = match paths.first() {
                Some(path) => disk.is_empty(path)?,
                None => true,
            };
            Ok::<_, crate::disk::DiskError>((text, is_empty))
        });
        let (text, is_empty) = read.await.map_err(|_| InternalError::Panic)??;
        match text {
            None if is_empty || version.may_be_missing => Ok(None),
            None => Err(Failure::because(format!(
                "the version of the service instance's data cannot be told: there is data, but no \
                 file {}; ask the operator",
                version.file
            ))),
            Some(text) => match version.of_data(&text) {
                Some(version) => Ok(Some(version)),
                None => Err(Failure::because(format!(
                    "the version of the service instance's data cannot be told: there is no \
                     version in {}; ask the operator",
                    version.file
                ))),
            },
        }
    }

    /// Refuses what can be refused without running anything.
    pub(super) async fn guard_at_once(
        &self,
        instance_name: &str,
        plan: &Plan,
    ) -> Result<(), Failure> {
        let Some(version) = &plan.data_version else { return Ok(()) };
        let said = match &version.image {
            ImageVersion::Exec(_) => return Ok(()),
            ImageVersion::Value(value) => Some(value.clone()),
            ImageVersion::Environment(name) => {
                // What is not here, or cannot be asked, is for the operation.
                let Ok(Some(facts)) = self.images.look(&plan.container.image).await else {
                    return Ok(());
                };
                facts.variable(name).map(str::to_owned)
            }
        };
        let Some(image) = said.as_deref().and_then(major) else { return Ok(()) };
        let Some(data) = self.data_version(instance_name, plan, version).await? else {
            return Ok(());
        };
        judge(plan, data, image).map(|_| ()).map_err(Failure::because)
    }

    /// Whether an image can be started on an instance's data, and what has to be done before.
    pub(super) async fn guard(
        &self,
        instance: &Instance,
        image: &ImageFacts,
        context: &Context,
    ) -> Result<Option<Migration>, Failure> {
        let plan = &instance.definition.plan;
        let Some(version) = &plan.data_version else { return Ok(None) };
        let Some(data) = self.data_version(&instance.row.name, plan, version).await? else {
            return Ok(None);
        };
        let said = match &version.image {
            ImageVersion::Value(value) => value.clone(),
            ImageVersion::Environment(name) => image.variable(name).unwrap_or_default().to_owned(),
            ImageVersion::Exec(command) => self.ask_image(instance, command, context).await?,
        };
        let of_image = major(&said).ok_or_else(|| {
            Failure::because(format!(
                "the version of image {} cannot be told as plan {:?} says (data_version.image); \
                 ask the operator",
                plan.container.image, plan.name
            ))
        })?;
        judge(plan, data, of_image).map_err(Failure::because)
    }

    /// Whether the version of its data is known.
    pub(super) fn guards_version(instance: &Instance) -> bool {
        instance.definition.plan.data_version.is_some()
    }

    /// Refuses to make a container anew whose image is of another version than the data: its tag
    /// may have moved. One that is there, and not `anew`, is only started, and has its image.
    pub(super) async fn require_version(
        &self,
        instance: &Instance,
        image: &ImageFacts,
        anew: bool,
        context: &Context,
    ) -> Result<(), Failure> {
        let spec = self.spec(instance)?;
        let found = while_unreachable(&context.cancel, context.deadline, || {
            self.docker.inspect(&spec.name)
        })
        .await?;
        if !anew && found.is_some_and(|facts| facts.is_wanted(&spec)) {
            return Ok(());
        }
        match self.guard(instance, image, context).await? {
            None => Ok(()),
            Some(Migration { data, image }) => Err(Failure::because(format!(
                "its data is of version {data} and its image of version {image}, so its container \
                 was not made; upgrade the service instance, which runs the migration hook, or \
                 bring the former image back"
            ))),
        }
    }

    /// Likewise for one that may have to be made, of what its reference stands for now.
    pub(super) async fn guard_container(
        &self,
        instance: &Instance,
        anew: bool,
        context: &Context,
    ) -> Result<(), Failure> {
        // One that is there has its image, which may have left the registry.
        if !Self::guards_version(instance)
            || (!anew && self.has_wanted_container(instance, context).await?)
        {
            return Ok(());
        }
        let image = self.present_image(instance, context).await?;
        self.require_version(instance, &image, anew, context).await
    }

    /// What a program of the image prints, with nothing of the instance within its reach.
    async fn ask_image(
        &self,
        instance: &Instance,
        command: &[String],
        context: &Context,
    ) -> Result<String, Failure> {
        check(&context.cancel)?;
        let mut spec = self.spec(instance)?;
        spec.name = probe_name(&spec.name);
        spec.labels.generation = NOT_A_GENERATION;
        spec.entrypoint = Some(command[..1].to_vec());
        spec.command = command[1..].to_vec();
        // One argument at least: without any the image's own would come instead.
        if spec.command.is_empty() {
            spec.entrypoint = Some(
                ["/bin/sh", "-c", "exec \"$0\""].iter().map(|word| (*word).to_owned()).collect(),
            );
            spec.command = command.to_vec();
        }
        spec.environment = Vec::new();
        spec.mounts = Vec::new();
        spec.ports.clear();
        spec.restart = RestartPolicy::No;
        let asked = while_unreachable(&context.cancel, context.deadline, || {
            self.docker.run_apart(&spec, SAY_VERSION)
        })
        .await?;
        match asked {
            OneOff::Ended(0, text) => Ok(text),
            OneOff::Ended(code, text) => {
                tracing::warn!(
                    instance.id = instance.row.id,
                    exit_code = code,
                    output = text.trim(),
                    "an image does not say its version"
                );
                Ok(String::new())
            }
            OneOff::TimedOut => Ok(String::new()),
        }
    }

    /// Runs the migration hook on the volumes of an instance whose containers are stopped.
    pub(super) async fn migrate(
        &self,
        instance: &Instance,
        migration: Migration,
        operation_id: &str,
        context: &Context,
    ) -> Result<(), Failure> {
        let plan = &instance.definition.plan;
        let Some(hook) = plan.lifecycle.hook(Action::Migrate) else { return Ok(()) };
        check(&context.cancel)?;
        context.step("making the data over for the new version");
        let mut spec = self.spec(instance)?;
        spec.name = migrate_name(&spec.name);
        spec.labels.generation = NOT_A_GENERATION;
        spec.entrypoint = Some(IDLE.iter().map(|word| (*word).to_owned()).collect());
        spec.command = Vec::new();
        spec.ports.clear();
        spec.restart = RestartPolicy::No;
        let ran = async {
            while_unreachable(&context.cancel, context.deadline, || self.docker.start_apart(&spec))
                .await?;
            let host = &self.limits.external_host;
            let input = HookInput {
                action: Action::Migrate,
                instance,
                plan,
                host,
                operation_id,
                binding: None,
                versions: Some((migration.data, migration.image)),
            };
            self.run_hook_in(&spec.name, hook, &input, context).await
        }
        .await;
        // Whatever became of the hook: nothing of it runs when the data is used again.
        let removed = while_unreachable(&self.stopping, context.deadline, || {
            self.docker.remove(&spec.name, &instance.row.id)
        })
        .await;
        ran?;
        removed
    }
}
