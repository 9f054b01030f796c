//! Certificates of instances: made with the instance, renewed while it is in use.

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    Broker, InstanceState, Refusal,
    error::Failure,
    instance::{Instance, Private},
    retry::{pause_for, while_unreachable},
    work::Context,
};
use crate::{
    catalog::{Plan, Reload, ServiceTls},
    certificates::Leaf,
    credentials::redact,
    disk::{CertificateFiles, Installed},
    store::InstanceRow,
    telemetry::Chain,
};

/// Longest time for a script that makes a service take its new certificate.
const RELOAD: Duration = Duration::from_mins(1);

impl Broker {
    /// What clients of an instance have to trust; `None` when it does without TLS.
    pub(super) fn ca_certificate(&self, private: &Private) -> Option<&str> {
        let settings = self.limits.service_tls.as_ref().filter(|_| private.tls)?;
        Some(settings.authority.bundle())
    }

    /// Refuses to bind an instance with TLS when the operator has taken its CA away: the document
    /// would be wrong.
    pub(super) fn require_ca(&self, row: &InstanceRow) -> Result<(), Refusal> {
        if self.limits.service_tls.is_some() || !Private::open(&self.keys, row)?.tls {
            return Ok(());
        }
        Err(Refusal::Unprocessable(
            "the service instance speaks TLS, but its CA is not in the broker's configuration any \
             more; ask the operator"
                .to_owned(),
        ))
    }

    /// Makes sure that an instance that is about to be started has a certificate. One that cannot
    /// be renewed is better than none: the instance comes back with it.
    pub(super) async fn require_certificate(&self, instance: &Instance) -> Result<(), Failure> {
        let failure = match self.ensure_certificate(instance).await {
            Err(Failure::Failed { public, cause }) => Failure::Failed { public, cause },
            other => return other,
        };
        let name = instance.row.name.clone();
        if self.on_disk(move |disk| disk.installed_certificate(&name)).await?.is_none() {
            return Err(failure);
        }
        report(&instance.row.id, failure);
        Ok(())
    }

    /// Makes sure that an instance with TLS has a certificate that is good for a while.
    async fn ensure_certificate(&self, instance: &Instance) -> Result<(), Failure> {
        let Some(tls) = tls_of(instance) else { return Ok(()) };
        let name = instance.row.name.clone();
        let installed = self.on_disk(move |disk| disk.installed_certificate(&name)).await?;
        let Some(settings) = &self.limits.service_tls else {
            return match installed {
                // It lasts as long as it lasts; the log has said so.
                Some(_) => Ok(()),
                None => Err(Failure::because(
                    "it needs a TLS certificate, but service_tls is not configured",
                )),
            };
        };
        let mut names = self.names_of(instance);
        let now = SystemTime::now();
        let reason = match &installed {
            None => Some("there is none"),
            Some(Installed { ca, certificate }) => settings.authority.reason_to_renew(
                ca,
                certificate,
                &names,
                settings.renew_before,
                now,
            ),
        };
        let Some(reason) = reason else { return Ok(()) };
        // Bindings that exist go on naming the host of their time.
        let former = installed.and_then(|installed| Leaf::parse(&installed.certificate));
        for name in former.into_iter().flat_map(|leaf| leaf.names) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        let authority = Arc::clone(&settings.authority);
        let issued = authority
            .issue(&names, settings.lifetime, now)
            .map_err(|error| Failure::because(format!("TLS: {error}")))?;
        let not_after = Leaf::parse(&issued.certificate).map(|leaf| leaf.not_after);
        let days = not_after.and_then(|end| end.duration_since(now).ok());
        tracing::info!(
            instance.id = instance.row.id,
            reason,
            days = days.map(|left| left.as_secs() / 86_400),
            "a TLS certificate was made"
        );
        let (name, owner, mode) = (instance.row.name.clone(), tls.owner, tls.mode);
        // A container that is yet to be made starts with it.
        let in_use = instance.state != InstanceState::Provisioning;
        let installed = self.on_disk(move |disk| {
            let files = CertificateFiles {
                ca: authority.bundle(),
                certificate: &issued.certificate,
                private_key: &issued.private_key,
                owner,
                mode,
                in_use,
            };
            disk.install_certificate(&name, files)
        });
        Ok(installed.await?)
    }

    /// Hosts that bindings of an instance name.
    fn names_of(&self, instance: &Instance) -> Vec<String> {
        let offered = self.catalog.find_plan(&instance.row.plan_id).map(|offer| &*offer.plan);
        let plans: [Option<&Plan>; 2] = [offered, Some(&instance.definition.plan)];
        let fixed =
            plans.into_iter().flatten().filter_map(|plan| plan.credentials.hostname.as_ref());
        let mut names = vec![as_certified(&self.limits.external_host)];
        for name in fixed.map(|name| as_certified(name)) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }

    /// Renews certificates until the broker stops.
    pub async fn keep_certificates(&self) {
        let Some(settings) = &self.limits.service_tls else {
            return self.report_unattended().await;
        };
        loop {
            match self.store.read(|rows| rows.list_instance_ids()).await {
                Ok(ids) => {
                    for id in ids {
                        if let Err(failure) = self.renew(&id).await {
                            report(&id, failure);
                        }
                    }
                }
                Err(error) => {
                    tracing::error!(error = %Chain(&error), "certificates cannot be looked at");
                }
            }
            if pause_for(&self.stopping, settings.check_interval).await.is_err() {
                return;
            }
        }
    }

    async fn renew(&self, id: &str) -> Result<(), Failure> {
        let cancel = self.stopping.child_token();
        // An operation that runs already is not disturbed; the next look is soon enough.
        let Some(_hold) = self.works.hold(id, None, cancel.clone()) else { return Ok(()) };
        let Some(instance) = self.find(id).await? else { return Ok(()) };
        let Some(tls) = tls_of(&instance).filter(|_| instance.state.is_usable()) else {
            return Ok(());
        };
        let safe = instance.row.name.clone();
        if self.is_outdated(id) || self.on_disk(move |disk| disk.is_in_maintenance(&safe)).await? {
            return Ok(());
        }
        // Neither a directory on a mount point without its disk, nor a start without the data.
        if !instance.is_guest() {
            self.require_data(&instance).await?;
        }
        self.ensure_certificate(&instance).await?;
        let name = instance.row.name.clone();
        if !self.on_disk(move |disk| disk.is_reload_pending(&name)).await? {
            return Ok(());
        }
        let container = self.container_name(&instance.row.name);
        // One that does not run takes the new certificate when it starts; until then there is nobody
        // to tell. A restart may have stopped it and come no further.
        match self.docker.inspect(&container).await? {
            Some(facts) if facts.running || matches!(tls.reload, Reload::Restart) => {}
            _ => return Ok(()),
        }
        let context = Context::unattended(cancel, Instant::now() + RELOAD);
        self.reload(&instance, &tls.reload, &container, &context).await?;
        tracing::info!(instance.id = id, "the service has taken its new TLS certificate");
        let name = instance.row.name.clone();
        Ok(self.on_disk(move |disk| disk.clear_reload(&name)).await?)
    }

    async fn reload(
        &self,
        instance: &Instance,
        how: &Reload,
        container: &str,
        context: &Context,
    ) -> Result<(), Failure> {
        match how {
            Reload::Signal(signal) => Ok(self.docker.signal(container, signal).await?),
            Reload::Restart => {
                let grace = instance.definition.plan.container.stop_timeout;
                self.docker.stop(container, grace).await?;
                // What it has stopped it starts, also when the broker stops meanwhile. Stopping may
                // have taken all the time.
                let context = context.renewed(RELOAD);
                let start = || self.docker.start(container);
                while_unreachable(&CancellationToken::new(), context.deadline, start).await?;
                self.wait_until_ready(instance, &context).await
            }
            Reload::Script(script) => {
                let command = ["/bin/sh", "-c", script].map(str::to_owned);
                let (code, output) = self.docker.exec(container, &command, &[], RELOAD).await?;
                if code == 0 {
                    return Ok(());
                }
                let clean = redact(&output, instance.private.secrets.values());
                let last = clean.trim().lines().last().unwrap_or("it printed nothing").to_owned();
                Err(Failure::because(format!("tls.reload ended with exit code {code}: {last}")))
            }
        }
    }

    /// Says which certificates nobody renews, because the operator has taken the CA away.
    async fn report_unattended(&self) {
        let Ok(ids) = self.store.read(|rows| rows.list_instance_ids()).await else { return };
        for id in ids {
            if let Ok(Some(instance)) = self.find(&id).await
                && tls_of(&instance).is_some()
            {
                tracing::error!(
                    instance.id = id,
                    "its TLS certificate is not renewed: service_tls is not configured any more"
                );
            }
        }
    }
}

fn report(instance_id: &str, failure: Failure) {
    if let Failure::Failed { public, cause } = failure {
        tracing::error!(
            instance.id = instance_id,
            reason = public,
            error = cause.map_or_else(String::new, |cause| Chain(&cause).to_string()),
            "a TLS certificate could not be renewed; it is tried again"
        );
    }
}

/// A host as certificates name it: an IP address can be written in many ways.
fn as_certified(host: &str) -> String {
    host.parse::<IpAddr>().map_or_else(|_| host.to_owned(), |address| address.to_string())
}

/// How an instance speaks TLS, if it does.
pub(super) fn tls_of(instance: &Instance) -> Option<&ServiceTls> {
    instance.definition.plan.tls.as_ref().filter(|_| instance.private.tls)
}
