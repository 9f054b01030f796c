//! What an image says of itself, for whoever writes a service file for it.

use std::{collections::HashMap, time::Duration};

use bollard::{
    models::ContainerCreateBody,
    query_parameters::{
        CreateContainerOptions, DownloadFromContainerOptionsBuilder, RemoveContainerOptionsBuilder,
    },
};
use futures_util::StreamExt;

use super::{
    DockerError, Engine,
    engine::{QUICK, SLOW},
    error::status,
    labels::OWNER,
};
use crate::catalog::{ContainerPort, ImageReference};

/// A header of a tar file.
const TAR_HEADER_BYTES: usize = 512;
/// For the first bytes of an archive.
const LOOK: Duration = QUICK;

/// A volume that an image declares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeclaredVolume {
    /// Path in the container.
    pub path: String,
    /// User and group that own the directory in the image, as numbers.
    pub owner: (u64, u64),
}

/// An image, as its author described it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImageDescription {
    /// Ports that it exposes.
    pub ports: Vec<ContainerPort>,
    /// Volumes that it declares.
    pub volumes: Vec<DeclaredVolume>,
    /// User that its process starts as; empty for root.
    pub user: String,
    /// Environment, `NAME=value`.
    pub environment: Vec<String>,
    /// What it runs.
    pub entrypoint: Vec<String>,
    /// Arguments of that.
    pub command: Vec<String>,
    /// It has a health check of its own.
    pub has_healthcheck: bool,
}

impl Engine {
    /// Describes an image that is here; `None` when it is not.
    ///
    /// The owners of its volumes are in no metadata, so a container is made of it, looked into, and
    /// removed. It is never started.
    ///
    /// # Errors
    /// [`DockerError`].
    pub async fn describe_image(
        &self,
        image: &ImageReference,
    ) -> Result<Option<ImageDescription>, DockerError> {
        let (name, object) = (image.to_string(), format!("image {image}"));
        let request = async |docker: &bollard::Docker| match docker.inspect_image(&name).await {
            Err(error) if status(&error) == Some(404) => Ok(None),
            other => other.map(Some),
        };
        let Some(found) = self.call("inspect", &object, QUICK, request).await? else {
            return Ok(None);
        };
        let config = found.config.unwrap_or_default();
        let ports = config.exposed_ports.unwrap_or_default();
        let mut ports: Vec<_> =
            ports.iter().filter_map(|port| ContainerPort::parse(port).ok()).collect();
        ports.sort();
        let mut paths = config.volumes.unwrap_or_default();
        paths.sort();
        let no_check = |test: &Vec<String>| test.first().is_none_or(|word| word == "NONE");
        let test = config.healthcheck.and_then(|check| check.test);
        Ok(Some(ImageDescription {
            ports,
            volumes: self.volumes(&name, paths).await?,
            user: config.user.unwrap_or_default(),
            environment: config.env.unwrap_or_default(),
            entrypoint: config.entrypoint.unwrap_or_default(),
            command: config.cmd.unwrap_or_default(),
            has_healthcheck: test.is_some_and(|test| !no_check(&test)),
        }))
    }

    async fn volumes(
        &self,
        image: &str,
        paths: Vec<String>,
    ) -> Result<Vec<DeclaredVolume>, DockerError> {
        if paths.is_empty() {
            return Ok(Vec::new());
        }
        let object = format!("a container of {image}");
        let body = ContainerCreateBody {
            image: Some(image.to_owned()),
            // Never run, but dockerd makes no container that has nothing to run.
            cmd: Some(vec!["true".to_owned()]),
            labels: Some(HashMap::from([(OWNER.to_owned(), self.owner().to_owned())])),
            ..ContainerCreateBody::default()
        };
        let request = async |docker: &bollard::Docker| {
            docker.create_container(None::<CreateContainerOptions>, body).await
        };
        let id = self.call("create", &object, SLOW, request).await?.id;
        let mut volumes = Vec::with_capacity(paths.len());
        let mut outcome = Ok(());
        for path in paths {
            match self.owner_of(&id, &object, &path).await {
                Ok(owner) => volumes.push(DeclaredVolume { path, owner }),
                Err(error) => {
                    outcome = Err(error);
                    break;
                }
            }
        }
        let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        let request =
            async |docker: &bollard::Docker| docker.remove_container(&id, Some(options)).await;
        let removed = self.call("remove", &object, SLOW, request).await;
        outcome.and(removed).map(|()| volumes)
    }

    /// Out of the header with which the archive of a directory begins.
    async fn owner_of(
        &self,
        container: &str,
        object: &str,
        path: &str,
    ) -> Result<(u64, u64), DockerError> {
        let options = DownloadFromContainerOptionsBuilder::new().path(path).build();
        let request = async |docker: &bollard::Docker| {
            let mut archive = Box::pin(docker.download_from_container(container, Some(options)));
            let mut header = Vec::new();
            while header.len() < TAR_HEADER_BYTES {
                let Some(chunk) = archive.next().await else { break };
                header.extend_from_slice(&chunk?);
            }
            Ok(header)
        };
        let header = self.call("look into", object, LOOK, request).await?;
        // POSIX ustar: two octal numbers of eight bytes, behind the name and the mode.
        let number = |at: usize| {
            let digits = header.get(at..at + 8).unwrap_or_default();
            let text = String::from_utf8_lossy(digits);
            u64::from_str_radix(text.trim_matches(['\0', ' ']), 8).unwrap_or(0)
        };
        Ok((number(108), number(116)))
    }
}
