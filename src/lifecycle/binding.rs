//! A binding as verbs see it: its state and what is sealed in its row.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{
    BoundDocument, Broker, Refusal,
    error::InternalError,
    hook_input::HookBinding,
    instance::{damaged, open_definition},
};
use crate::{
    catalog::{Action, Plan},
    credentials::{BindingSecrets, Keyring},
    store::{BindingRow, InstanceRow, RowError, Rows},
};

/// State of a binding, stored as text. Without hooks a binding is always `Ready`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BindingState {
    /// Its secrets are drawn, its hook runs.
    Binding,
    /// Its document can be handed out.
    Ready,
    /// Being revoked.
    Unbinding,
    /// Its time was up; its credentials are revoked.
    Expired,
    /// Could not be made. What there may be of it goes with its deletion.
    BindFailed,
    /// Could not be revoked: its credentials may still be valid.
    UnbindFailed,
}

impl BindingState {
    const ALL: [Self; 6] = [
        Self::Binding,
        Self::Ready,
        Self::Unbinding,
        Self::Expired,
        Self::BindFailed,
        Self::UnbindFailed,
    ];

    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Binding => "binding",
            Self::Ready => "ready",
            Self::Unbinding => "unbinding",
            Self::Expired => "expired",
            Self::BindFailed => "bind failed",
            Self::UnbindFailed => "unbind failed",
        }
    }

    pub(super) fn of(row: &BindingRow) -> Result<Self, InternalError> {
        Self::ALL.into_iter().find(|state| state.as_str() == row.state).ok_or_else(|| {
            damaged(&format!("binding {}", row.id), format!("its state is {:?}", row.state))
        })
    }

    /// Whether it has a document to show.
    pub(super) fn is_made(self) -> bool {
        !matches!(self, Self::Binding | Self::BindFailed)
    }
}

impl fmt::Display for BindingState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What is sealed in a binding's row.
#[derive(Clone, Serialize, Deserialize)]
pub(super) struct Sealed {
    /// `null` until it is made.
    pub(super) document: Value,
    pub(super) parameters: Map<String, Value>,
    pub(super) bind_resource: Value,
    pub(super) predecessor: Option<String>,
    /// OSB context of the request.
    #[serde(default)]
    pub(super) context: Value,
    /// Its own user, made by a hook; without one it shares the instance's.
    #[serde(default)]
    pub(super) secrets: Option<BindingSecrets>,
    /// How long its credentials are valid.
    #[serde(default)]
    pub(super) lifetime_seconds: Option<i64>,
}

fn place(instance: &str, binding: &str) -> String {
    // Lengths keep two pairs of ids with the same concatenation apart.
    format!("binding:{}:{instance}:{binding}", instance.len())
}

impl Sealed {
    pub(super) fn seal(
        &self,
        keys: &Keyring,
        instance: &str,
        id: &str,
    ) -> Result<Vec<u8>, InternalError> {
        let text = serde_json::to_vec(self)
            .map_err(|error| damaged(&format!("binding {id}"), error.to_string()))?;
        Ok(keys.seal(&place(instance, id), &text)?)
    }

    pub(super) fn open(keys: &Keyring, row: &BindingRow) -> Result<Self, InternalError> {
        let text = keys.open(&place(&row.instance_id, &row.id), &row.sealed)?;
        serde_json::from_slice(&text)
            .map_err(|error| damaged(&format!("binding {}", row.id), error.to_string()))
    }

    pub(super) fn into_document(self, created: bool) -> BoundDocument {
        BoundDocument { created, document: self.document, parameters: self.parameters }
    }

    /// What its hooks are told of it; `None` if it was made without a hook.
    pub(super) fn for_hook<'a>(&'a self, id: &'a str) -> Option<HookBinding<'a>> {
        Some(HookBinding {
            id,
            predecessor: self.predecessor.as_deref(),
            parameters: &self.parameters,
            bind_resource: &self.bind_resource,
            context: &self.context,
            secrets: self.secrets.as_ref()?,
            made: self.document.get("credentials").and_then(Value::as_object),
        })
    }

    /// OSB "Binding Metadata Object": until when its credentials are valid, and by when another
    /// binding should be in use.
    pub(super) fn add_metadata(&mut self, expires_at: Option<i64>) {
        if let (Some(expires_at), Some(lifetime), Some(document)) =
            (expires_at, self.lifetime_seconds, self.document.as_object_mut())
        {
            let metadata = document.entry("metadata").or_insert_with(|| json!({}));
            metadata["expires_at"] = timestamp(expires_at).into();
            metadata["renew_before"] = timestamp(expires_at - (lifetime / 5).max(1)).into();
        }
    }
}

/// Seconds since the epoch as OSB wants dates: `2026-01-31T12:00:00.0Z`.
pub(super) fn timestamp(seconds: i64) -> String {
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Years that begin with March, in eras of 400 of them, from 0000-03-01.
    let days = days + 719_468;
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.0Z")
}

impl Broker {
    /// The plan that shapes new bindings: the catalog's, so that an operator can mend it, else the
    /// one that the instance was made of.
    pub(super) fn shaping_plan(
        &self,
        rows: &Rows<'_>,
        row: &InstanceRow,
    ) -> Result<Result<Arc<Plan>, InternalError>, RowError> {
        if let Some(offer) = self.catalog.find_plan(&row.plan_id) {
            return Ok(Ok(Arc::clone(&offer.plan)));
        }
        let sealed = rows.find_definition(&row.definition_hash)?;
        let definition = open_definition(&self.keys, row, sealed.as_deref());
        Ok(definition.map(|definition| definition.plan))
    }

    /// The plan whose hook an action on an instance runs: the catalog's, so that an operator can
    /// mend it, else, also when that has none any more, the one that the instance was made of.
    pub(super) fn hooking_plan<'a>(
        &'a self,
        instance: &'a super::instance::Instance,
        action: Action,
    ) -> &'a Plan {
        let offer = self.catalog.find_plan(&instance.row.plan_id);
        let current = offer.map(|offer| &*offer.plan);
        current
            .filter(|plan| plan.lifecycle.hook(action).is_some())
            .unwrap_or(&instance.definition.plan)
    }
}

pub(super) fn taken(id: &str) -> Refusal {
    Refusal::Conflict(format!("service binding {id} exists already with other parameters"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_as_osb_wants_them() {
        for (seconds, date) in [
            (0, "1970-01-01T00:00:00.0Z"),
            (951_782_400, "2000-02-29T00:00:00.0Z"),
            (1_772_323_199, "2026-02-28T23:59:59.0Z"),
            (1_772_323_200, "2026-03-01T00:00:00.0Z"),
            (4_107_542_400, "2100-03-01T00:00:00.0Z"),
            (1_798_761_599, "2026-12-31T23:59:59.0Z"),
        ] {
            assert_eq!(timestamp(seconds), date);
        }
    }
}
