//! Data lies on the persistent disk, and a server is not started on a directory that has lost it.
//!
//! Docker gives each volume that an image declares and the plan does not mount a directory of its
//! own below its data root: it goes with the container, at the next update or on the next VM, and
//! nobody is told. So such a plan makes no instances unless it says `ephemeral`.

use std::sync::Arc;

use tokio::time::Instant;

use super::{
    Broker, Refusal,
    adopted::settle_directory,
    error::{Failure, InternalError},
    instance::Instance,
};
use crate::{
    catalog::{ContainerPlan, Ephemeral, RestartPolicy},
    disk::{Disk, DiskError},
    docker::{DockerError, ImageFacts},
    telemetry::Chain,
};

/// What an image's volumes come to in a plan.
#[derive(Debug, PartialEq, Eq)]
enum Mounts {
    /// All are on the disk, or the plan says that they need not be.
    Good,
    /// A plan without any persistent volume, for an image with these: a cache, perhaps.
    Assumed(Vec<String>),
    /// These would be lost with the container.
    Lost(Vec<String>),
}

/// Whether `path` is `above` or lies below it.
fn is_within(path: &str, above: &str) -> bool {
    let (path, above) = (path.trim_end_matches('/'), above.trim_end_matches('/'));
    path.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn mounts(container: &ContainerPlan, image: &ImageFacts) -> Mounts {
    let ephemeral: &[String] = match &container.ephemeral {
        Ephemeral::Everything => return Mounts::Good,
        Ephemeral::Paths(paths) => paths,
    };
    let volumes = container.volumes.iter().map(|volume| volume.path.as_str());
    // Who writes a tmpfs into a plan knows that it is gone with the container.
    let tmpfs = container.hardening.tmpfs.iter().map(|tmpfs| tmpfs.path.as_str());
    let covered: Vec<&str> =
        volumes.chain(tmpfs).chain(ephemeral.iter().map(String::as_str)).collect();
    let is_lost = |path: &&String| !covered.iter().any(|above| is_within(path, above));
    let lost: Vec<String> = image.volumes.iter().filter(is_lost).cloned().collect();
    if lost.is_empty() {
        Mounts::Good
    } else if container.volumes.is_empty() {
        Mounts::Assumed(lost)
    } else {
        Mounts::Lost(lost)
    }
}

/// Why a plan makes no instances of its image, if data would be lost.
pub(super) fn mount_problem(container: &ContainerPlan, image: &ImageFacts) -> Option<String> {
    let Mounts::Lost(paths) = mounts(container, image) else { return None };
    Some(format!(
        "the image {} keeps data in {}, which is on none of the plan's volumes and would be lost \
         with the container; add it to the plan's volumes, or say ephemeral: [{}]",
        container.image,
        paths.join(" and "),
        paths.join(", ")
    ))
}

/// Whether a directory holds anything. What a file system makes by itself does not count.
fn holds_data(path: &std::path::Path) -> Result<bool, DiskError> {
    let failed = |source| DiskError::Io { verb: "list", path: path.to_owned(), source };
    for entry in std::fs::read_dir(path).map_err(failed)? {
        if entry.map_err(failed)?.file_name() != "lost+found" {
            return Ok(true);
        }
    }
    Ok(false)
}

impl Broker {
    /// Refuses to make anything below a mount point whose disk is not there.
    pub(super) async fn require_disk(&self) -> Result<(), Refusal> {
        match self.missing_disk().await? {
            None => Ok(()),
            Some(why) => Err(Refusal::Unprocessable(why)),
        }
    }

    /// Why nothing can be made at present, if so: the store knows of data, and none of it is there.
    pub(super) async fn missing_disk(&self) -> Result<Option<String>, InternalError> {
        if !self.store.lacks_disk().await? {
            return Ok(None);
        }
        tracing::error!(
            host_directory = %self.disk.root().display(),
            "there is no directory of any instance that held data; is the disk mounted?"
        );
        let why = "the data of the service instances is not there, so no new ones are made; ask \
                   the operator";
        Ok(Some(why.to_owned()))
    }

    /// Says which plans make no instances because their data would be lost, as their images come.
    pub async fn report_mounts(self: &Arc<Self>) {
        let offers = self.catalog.offers().filter(|o| o.plan.container.existing.is_none());
        let looks = offers.map(async |offer| {
            let container = &offer.plan.container;
            let facts = self.images.wait_for(&container.image).await;
            match mounts(container, &facts) {
                Mounts::Good => {}
                Mounts::Assumed(paths) => tracing::warn!(
                    plan.id = offer.plan.id,
                    service.name = offer.service.name,
                    paths = paths.join(", "),
                    "the image keeps data, but the plan has no volumes, so it is taken for \
                     ephemeral: the data goes with the container; add volumes, or say ephemeral: \
                     true"
                ),
                Mounts::Lost(_) => tracing::error!(
                    plan.id = offer.plan.id,
                    service.name = offer.service.name,
                    problem = mount_problem(container, &facts),
                    "a plan makes no new instances, because their data would be lost"
                ),
            }
        });
        futures_util::future::join_all(looks).await;
    }

    /// A server that starts on a missing or emptied directory starts afresh: better not at all.
    pub(super) async fn require_data(&self, instance: &Instance) -> Result<(), Failure> {
        let id = instance.row.id.clone();
        let filled = self.store.read(move |rows| rows.list_filled_volumes(&id)).await?;
        let (disk, of) = (self.disk.clone(), instance.clone());
        let look = tokio::task::spawn_blocking(move || look_at(&disk, &of, &filled));
        if let Some(why) = look.await.map_err(|_| InternalError::Panic)?? {
            return Err(Failure::because(why));
        }
        if let Some(adopted) = &instance.private.adopted {
            // For its first container they are where they were before.
            settle_directory(&self.disk, &instance.row, adopted).await?;
        }
        Ok(())
    }

    /// As [`Broker::require_data`]. Without its data the container of an instance is stopped, or it
    /// would go on as if it had never held anything; and dockerd may not start it by itself any
    /// more, which at its own restart it does to what was stopped, too. [`Broker::unguard`] undoes
    /// that.
    pub(super) async fn guard_data(&self, instance: &Instance) -> Result<(), Failure> {
        let looked = self.require_data(instance).await;
        // What could not be found out is no reason to stop anything.
        if matches!(looked, Err(Failure::Failed { cause: None, .. }))
            && let Err(error) = self.keep_down(instance).await
        {
            tracing::warn!(
                instance.id = instance.row.id,
                error = %Chain(&error),
                "a container without its data could not be stopped; it is tried again"
            );
        }
        looked
    }

    async fn keep_down(&self, instance: &Instance) -> Result<(), DockerError> {
        let name = self.container_name(&instance.row.name);
        if !self.docker.owns(&name, &instance.row.id).await? {
            return Ok(());
        }
        self.docker.set_restart(&name, &RestartPolicy::No).await?;
        self.docker.stop(&name, instance.definition.plan.container.stop_timeout).await
    }

    /// dockerd may start the container of an instance by itself, as its plan says. The container
    /// is there.
    pub(super) async fn unguard(&self, instance: &Instance) -> Result<(), DockerError> {
        let name = self.container_name(&instance.row.name);
        self.docker.set_restart(&name, &instance.definition.plan.container.restart).await
    }

    /// dockerd starts containers by itself, also on a directory that has lost its data: such a one
    /// is stopped. Whether all is well.
    pub(super) async fn guard_running(&self, id: &str) -> bool {
        let cancel = self.stopping.child_token();
        let Some(_hold) = self.works.hold(id, None, cancel.clone()) else { return true };
        let guarded = async {
            // Data that could not be taken over is where it was, and its container runs on it.
            self.settle(id, &cancel, Instant::now() + self.limits.operation_timeout).await?;
            let Some(instance) = self.find(id).await? else { return Ok(()) };
            if instance.is_guest() {
                return Ok(());
            }
            self.guard_data(&instance).await?;
            self.note_data(&instance).await;
            Ok(())
        };
        match guarded.await {
            Ok(()) | Err(Failure::Interrupted) => true,
            Err(Failure::Failed { public, cause }) => {
                self.give_up(id, public, cause).await;
                false
            }
        }
    }

    /// Volumes of an instance that hold data now.
    pub(super) async fn filled_volumes(
        &self,
        instance: &Instance,
    ) -> Result<Vec<String>, InternalError> {
        let (disk, instance) = (self.disk.clone(), instance.clone());
        let look = tokio::task::spawn_blocking(move || {
            let volumes = &instance.definition.plan.container.volumes;
            let paths = disk.paths(&instance.row.name, volumes)?;
            let mut filled = Vec::new();
            for (volume, path) in volumes.iter().zip(paths) {
                if path.exists() && holds_data(&path)? {
                    filled.push(volume.path.clone());
                }
            }
            Ok::<_, DiskError>(filled)
        });
        Ok(look.await.map_err(|_| InternalError::Panic)??)
    }

    /// Remembers which volumes of a running instance hold data.
    pub(super) async fn note_data(&self, instance: &Instance) {
        let noted = async {
            let filled = self.filled_volumes(instance).await?;
            let id = instance.row.id.clone();
            let known = {
                let id = id.clone();
                self.store.read(move |rows| rows.list_filled_volumes(&id)).await?
            };
            if filled.iter().all(|path| known.contains(path)) {
                return Ok(());
            }
            let written = self.store.write(move |rows| {
                rows.add_filled_volumes(&id, &filled)?;
                Ok(Ok::<(), InternalError>(()))
            });
            written.await?
        };
        if let Err(error) = noted.await {
            tracing::warn!(
                instance.id = instance.row.id,
                error = %Chain(&error),
                "cannot remember which directories hold data"
            );
        }
    }
}

/// Whether empty volumes have lost their data. A service may empty one of several by itself, but
/// hardly all of them, and never takes the record beside them away.
fn has_lost<'a>(
    disk: &Disk,
    instance: &Instance,
    volumes: impl Iterator<Item = (&'a str, &'a std::path::PathBuf)>,
    filled: &[String],
) -> Result<bool, InternalError> {
    if !disk.has_record(&instance.row.name)? {
        return Ok(true);
    }
    for (_, path) in volumes.filter(|(volume, _)| filled.iter().any(|one| one == volume)) {
        if path.exists() && holds_data(path)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Why the container of an instance must not be started, if so.
fn look_at(
    disk: &Disk,
    instance: &Instance,
    filled: &[String],
) -> Result<Option<String>, InternalError> {
    let volumes = &instance.definition.plan.container.volumes;
    let paths = disk.paths(&instance.row.name, volumes)?;
    let is_lost = has_lost(disk, instance, volumes.iter().map(|v| &*v.path).zip(&paths), filled)?;
    for (volume, path) in volumes.iter().zip(paths) {
        let there = path.try_exists().map_err(|source| DiskError::Io {
            verb: "look at",
            path: path.clone(),
            source,
        })?;
        let what = if !there {
            "is missing"
        } else if is_lost && filled.contains(&volume.path) && !holds_data(&path)? {
            "is empty although it held data"
        } else {
            continue;
        };
        let bare = disk.list()?.is_empty();
        let hint = if bare {
            " (there is no directory of any instance: is the disk mounted?)"
        } else {
            ""
        };
        return Ok(Some(format!(
            "its data directory {} {what}, so its container is kept stopped{hint}; restore the \
             directory, or delete the service instance",
            path.display()
        )));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{Tmpfs, Volume};

    fn plan(volumes: &[&str], ephemeral: Ephemeral) -> ContainerPlan {
        let mut plan = crate::config::placeholder_container();
        let volume = |path: &&str| Volume {
            path: (*path).to_owned(),
            owner: None,
            mode: 0o700,
            size_bytes: None,
        };
        plan.volumes = volumes.iter().map(volume).collect();
        plan.hardening.tmpfs = vec![Tmpfs { path: "/run".into(), options: String::new() }];
        plan.ephemeral = ephemeral;
        plan
    }

    #[test]
    fn every_volume_of_an_image_is_on_the_disk_or_said_to_be_ephemeral() {
        let image = |volumes: &[&str]| ImageFacts {
            id: "i".into(),
            ports: Vec::new(),
            environment: Vec::new(),
            volumes: volumes.iter().map(|path| (*path).to_owned()).collect(),
        };
        let none = || Ephemeral::default();
        let paths = |paths: &[&str]| {
            Ephemeral::Paths(paths.iter().map(|path| (*path).to_owned()).collect())
        };
        let lost = |paths: &[&str]| Mounts::Lost(paths.iter().map(|p| (*p).to_owned()).collect());
        let data = image(&["/data"]);
        assert_eq!(mounts(&plan(&["/data"], none()), &data), Mounts::Good);
        assert_eq!(mounts(&plan(&["/data"], none()), &image(&["/data/"])), Mounts::Good);
        assert_eq!(mounts(&plan(&["/data"], none()), &image(&["/data/db", "/run"])), Mounts::Good);
        // PostgreSQL 18 moved its volume up: data beside the mount would be lost.
        assert_eq!(mounts(&plan(&["/data/db"], none()), &data), lost(&["/data"]));
        assert_eq!(mounts(&plan(&["/dat"], none()), &data), lost(&["/data"]));
        let two = image(&["/data", "/logs"]);
        assert_eq!(mounts(&plan(&["/data"], none()), &two), lost(&["/logs"]));
        assert_eq!(mounts(&plan(&["/data"], paths(&["/logs"])), &two), Mounts::Good);
        assert_eq!(mounts(&plan(&["/x"], Ephemeral::Everything), &two), Mounts::Good);
        assert_eq!(mounts(&plan(&[], none()), &data), Mounts::Assumed(vec!["/data".into()]));
        assert_eq!(mounts(&plan(&[], none()), &image(&[])), Mounts::Good);
    }
}
