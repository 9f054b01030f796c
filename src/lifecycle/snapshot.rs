//! When a copy of an instance's data is kept during an update, and what becomes of it.
//!
//! A new image, or what runs in it, may rewrite the data. So a copy is made when the old container
//! has stopped, and the way back leads to it. It is given up at the moment when the new container
//! is ready: from then on clients may have had writes confirmed, which no way back may take from
//! them. What a container wrote that never became ready is set aside, not removed.

use std::sync::Arc;

use super::{
    Broker,
    error::{Failure, InternalError},
    fault::{Step, reach},
    instance::Instance,
    replace::standby_name,
    retry::{FIRST_PAUSE, LONGEST_PAUSE, check, pause_for, while_unreachable},
    room::Promise,
    update::Target,
    work::Context,
};
use crate::{
    config::{SnapshotMode, WhenTooLarge},
    disk::{Copying, Disk, DiskError, Snapshot, Usage},
    docker::ImageFacts,
};

/// How data is to be copied, and the room that is kept for that.
#[derive(Debug)]
pub(super) struct Chosen {
    copying: Copying,
    /// A reflink needs none.
    promise: Option<Promise>,
}

/// Bytes for people.
pub(super) fn human(bytes: u64) -> String {
    const UNITS: [(&str, u32); 4] = [("GiB", 30), ("MiB", 20), ("KiB", 10), ("bytes", 0)];
    let (unit, shift) =
        UNITS.into_iter().find(|(_, shift)| bytes >> shift > 0).unwrap_or(("bytes", 0));
    let tenths = (u128::from(bytes) * 10) >> shift;
    if shift == 0 || tenths % 10 == 0 {
        format!("{} {unit}", tenths / 10)
    } else {
        format!("{}.{} {unit}", tenths / 10, tenths % 10)
    }
}

impl Broker {
    /// Runs what blocks on files apart.
    pub(super) async fn on_disk<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Disk) -> Result<T, DiskError> + Send + 'static,
    ) -> Result<T, InternalError> {
        let disk = self.disk.clone();
        let done = tokio::task::spawn_blocking(move || job(&disk)).await;
        Ok(done.map_err(|_| InternalError::Panic)??)
    }

    /// Which image the container of the present generation was made of; empty if there is none.
    async fn image_of(&self, instance: &Instance, context: &Context) -> Result<String, Failure> {
        let name = self.container_name(&instance.row.name);
        for name in [standby_name(&name), name] {
            let found =
                while_unreachable(&context.cancel, context.deadline, || self.docker.inspect(&name))
                    .await?;
            let is_present = |generation| generation == instance.row.generation;
            if let Some(facts) = found
                && facts.labels.is_some_and(|labels| is_present(labels.generation))
            {
                return Ok(facts.image_id);
            }
        }
        Ok(String::new())
    }

    /// Whether and how the data is to be copied before the new container starts. Nothing has been
    /// touched yet, so everything that stands against it is said here.
    pub(super) async fn choose_copy(
        &self,
        old: &Instance,
        target: &Target,
        image: &ImageFacts,
        migrates: bool,
        operation_id: &str,
        context: &Context,
    ) -> Result<Option<Chosen>, Failure> {
        let needed =
            migrates || target.reconfigures || self.image_of(old, context).await? != image.id;
        let settings = self.limits.upgrade_snapshot;
        if !needed {
            return Ok(None);
        }
        if settings.mode == SnapshotMode::Off {
            may_go_without(
                migrates,
                "no copy of the data may be kept (upgrade_snapshot.mode is off)",
            )?;
            return self.go_without(old, operation_id).await;
        }
        let name = old.row.name.clone();
        let looked = self.on_disk(move |disk| {
            let Some(volumes) = disk.find_volumes(&name)? else { return Ok(None) };
            let reflinks = settings.mode != SnapshotMode::Copy && disk.can_reflink(&name)?;
            let usage = if reflinks { Usage::Bytes(0) } else { disk.usage(&volumes)? };
            Ok(Some((reflinks, usage)))
        });
        let Some((reflinks, usage)) = looked.await? else { return Ok(None) };
        if reflinks {
            return Ok(Some(Chosen { copying: Copying::Reflink, promise: None }));
        }
        if settings.mode == SnapshotMode::Reflink {
            return Err(Failure::because(
                "the file system cannot keep a copy of the data by reflink, which the operator \
                 asks for (upgrade_snapshot.mode); ask the operator",
            ));
        }
        let (bytes, counted) = match usage {
            Usage::Bytes(bytes) => (bytes, true),
            Usage::AtLeast(bytes) => (bytes, false),
        };
        if !counted || bytes > settings.max_bytes {
            let why = format!(
                "the data takes {}{}, and at most {} are copied before an upgrade \
                 (upgrade_snapshot.max_size); ask the operator",
                if counted { "" } else { "more than " },
                human(bytes),
                human(settings.max_bytes)
            );
            if settings.when_too_large == WhenTooLarge::Refuse {
                return Err(Failure::because(why));
            }
            tracing::warn!(instance.id = old.row.id, why, "an upgrade without a copy");
            may_go_without(migrates, &why)?;
            return self.go_without(old, operation_id).await;
        }
        let room = Arc::clone(&self.room);
        let promise = self.on_disk(move |disk| room.promise(bytes, disk)).await?;
        let promise = Some(promise.map_err(|free| no_room(bytes, free))?);
        Ok(Some(Chosen { copying: Copying::Bytes, promise }))
    }

    /// Remembers that there is none although the new version may rewrite the data: when it has been
    /// ready, there is no way back either.
    async fn go_without(
        &self,
        old: &Instance,
        operation_id: &str,
    ) -> Result<Option<Chosen>, Failure> {
        let (name, key) = (old.row.name.clone(), operation_id.to_owned());
        self.on_disk(move |disk| disk.go_without(&name, &key)).await?;
        Ok(None)
    }

    /// Copies the data of a stopped instance.
    pub(super) async fn keep_copy(
        &self,
        old: &Instance,
        operation_id: &str,
        chosen: Chosen,
        context: &Context,
    ) -> Result<(), Failure> {
        check(&context.cancel)?;
        context.step("keeping a copy of the data");
        let started = tokio::time::Instant::now();
        let Chosen { copying, promise } = chosen;
        if let Some(promise) = &promise {
            // Others may have filled the disk since, and a copy that does not fit would leave them
            // nothing at all.
            let free = self.on_disk(Disk::free_bytes).await?;
            if free < promise.bytes {
                return Err(no_room(promise.bytes, free));
            }
        }
        let name = &old.row.name;
        let copied = tokio::select! {
            late = context.ended() => return Err(late),
            copied = self.disk.copy_volumes(name, copying, &context.cancel) => copied,
        };
        let draft = match copied {
            Ok(draft) => draft,
            Err(_) if context.cancel.is_cancelled() => return Err(Failure::Interrupted),
            Err(error) => {
                let public =
                    "no copy of the data could be made before the upgrade; ask the operator";
                let cause = Some(InternalError::Disk(error));
                return Err(Failure::Failed { public: public.to_owned(), cause });
            }
        };
        reach(Step::UpdateCopied);
        let (name, key) = (old.row.name.clone(), operation_id.to_owned());
        self.on_disk(move |disk| disk.keep_snapshot(&name, &key, &draft)).await?;
        drop(promise);
        reach(Step::UpdateCopyKept);
        tracing::info!(
            instance.id = old.row.id,
            operation.id = operation_id,
            copying = ?copying,
            duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            "a copy of the data is kept"
        );
        Ok(())
    }

    /// The new container is ready: there is no way back to the copy any more. Tried until it is
    /// done, as the operation can end in no other way.
    pub(super) async fn give_up_copy(
        &self,
        instance: &Instance,
        operation_id: &str,
        context: &Context,
    ) -> Result<(), Failure> {
        let mut pause = FIRST_PAUSE;
        loop {
            let (name, key) = (instance.row.name.clone(), operation_id.to_owned());
            let spent = self.on_disk(move |disk| {
                let is_there = disk.snapshot_of(&name, &key)? != Snapshot::Absent;
                if is_there {
                    disk.spend_snapshot(&name, &key)?;
                }
                Ok(is_there)
            });
            match spent.await {
                Ok(true) => break,
                Ok(false) => return Ok(()),
                // The way back is no answer: clients may have written by now.
                Err(error) => tracing::error!(
                    instance.id = instance.row.id,
                    error = %crate::telemetry::Chain(&error),
                    "the copy of the data cannot be given up; it is tried again"
                ),
            }
            pause_for(&context.cancel, pause).await?;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        reach(Step::UpdateCopySpent);
        // Recording the end may need the room.
        let (name, key) = (instance.row.name.clone(), operation_id.to_owned());
        if let Err(error) = self.on_disk(move |disk| disk.empty_given_up(&name, &key)).await {
            tracing::warn!(
                instance.id = instance.row.id,
                error = %crate::telemetry::Chain(&error),
                "a copy that was given up could not be removed; it goes when the update has ended"
            );
        }
        Ok(())
    }

    /// Puts the copy of an update that went wrong in the place of the data, if there is one.
    /// No container of the instance may run.
    pub(super) async fn go_back_to_copy(&self, instance: &Instance) -> Result<(), Failure> {
        let name = instance.row.name.clone();
        let restored = self.on_disk(move |disk| {
            let Some(key) = disk.kept_snapshot(&name)? else { return Ok(false) };
            disk.restore_snapshot(&name, &key, || reach(Step::UpdateDataSetAside))?;
            Ok(true)
        });
        let restored = restored.await?;
        if restored {
            reach(Step::UpdateDataBack);
            tracing::warn!(
                instance.id = instance.row.id,
                "the data is as it was before the upgrade; what was written since is set aside"
            );
        }
        Ok(())
    }

    /// Removes what an update that has ended left beside the data. What failed upgrades wrote goes
    /// with the next one that succeeds.
    pub(super) async fn sweep_after_update(&self, instance: &Instance, succeeded: bool) {
        let name = instance.row.name.clone();
        let swept = self.on_disk(move |disk| {
            disk.clear_snapshots(&name)?;
            if succeeded { disk.clear_failed(&name) } else { Ok(()) }
        });
        if let Err(error) = swept.await {
            tracing::warn!(
                instance.id = instance.row.id,
                error = %crate::telemetry::Chain(&error),
                "what an update has left on the disk could not be removed"
            );
        }
    }
}

fn no_room(bytes: u64, free: u64) -> Failure {
    Failure::because(format!(
        "the disk has no room for a copy of the data before the upgrade: it takes {}, and {} are \
         free beside the copies of other upgrades; try again when these have ended, or ask the \
         operator",
        human(bytes),
        human(free)
    ))
}

/// An update without a copy, unless it must have one.
fn may_go_without(migrates: bool, why: &str) -> Result<(), Failure> {
    if migrates {
        return Err(Failure::because(format!(
            "the data has to be made over for another version, which is not done without a copy \
             of it: {why}"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::human;

    #[test]
    fn sizes_are_shown_as_people_write_them() {
        for (bytes, text) in [
            (0, "0 bytes"),
            (1023, "1023 bytes"),
            (1536, "1.5 KiB"),
            (10 << 30, "10 GiB"),
            ((5 << 20) + (1 << 19), "5.5 MiB"),
        ] {
            assert_eq!(human(bytes), text);
        }
    }
}
