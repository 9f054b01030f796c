//! Hooks: what a plan runs in an instance's container when something happens to the instance.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What a hook is run for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the verbs of OSB, and the one for data of an older version")]
pub enum Action {
    Provision,
    Update,
    Bind,
    Unbind,
    Deprovision,
    Migrate,
}

impl Action {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Provision, Self::Update, Self::Bind, Self::Unbind, Self::Deprovision, Self::Migrate];

    /// Key in the plan, and what the hook is told.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Provision => "provision",
            Self::Update => "update",
            Self::Bind => "bind",
            Self::Unbind => "unbind",
            Self::Deprovision => "deprovision",
            Self::Migrate => "migrate",
        }
    }

    /// How long the hook may take, unless the plan says so.
    #[must_use]
    pub fn default_timeout(self) -> Duration {
        match self {
            Self::Provision => Duration::from_mins(10),
            // It may have to write all data anew.
            Self::Migrate => Duration::from_hours(1),
            _ => Duration::from_secs(30),
        }
    }
}

/// The hooks of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Lifecycle {
    /// After the service answers for the first time.
    pub provision: Option<Hook>,
    /// After the service of a changed instance answers.
    pub update: Option<Hook>,
    /// Makes the credentials of a binding work.
    pub bind: Option<Hook>,
    /// Makes them not work any more.
    pub unbind: Option<Hook>,
    /// Before the container is stopped for good.
    pub deprovision: Option<Hook>,
    /// Makes data of another major version into the image's, while no server runs.
    #[serde(default)]
    pub migrate: Option<Hook>,
    /// User of the hooks in the container; `None`: the container's.
    pub user: Option<String>,
}

/// One hook.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    /// What is run.
    pub script: Script,
    /// How long it may take.
    pub timeout: Duration,
}

/// What a hook runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Script {
    /// A file of the image.
    Path(String),
    /// A file of the image, if the image has it.
    Optional(String),
    /// A text for `/bin/sh -c`.
    Text(String),
}

impl Lifecycle {
    /// `lifecycle: image`: a file in the root of the image for each action, those that there are.
    #[must_use]
    pub fn of_image() -> Self {
        let hook = |action: Action| {
            let script = Script::Optional(format!("/{}", action.as_str()));
            Some(Hook { script, timeout: action.default_timeout() })
        };
        Self {
            provision: hook(Action::Provision),
            update: hook(Action::Update),
            bind: hook(Action::Bind),
            unbind: hook(Action::Unbind),
            deprovision: hook(Action::Deprovision),
            // Runs in a container of its own: whoever writes one names it.
            migrate: None,
            user: None,
        }
    }

    /// The hook for an action.
    #[must_use]
    pub fn hook(&self, action: Action) -> Option<&Hook> {
        match action {
            Action::Provision => self.provision.as_ref(),
            Action::Update => self.update.as_ref(),
            Action::Bind => self.bind.as_ref(),
            Action::Unbind => self.unbind.as_ref(),
            Action::Deprovision => self.deprovision.as_ref(),
            Action::Migrate => self.migrate.as_ref(),
        }
    }

    /// Whether every binding certainly gets credentials of its own. An image may lack its script.
    #[must_use]
    pub fn binds(&self) -> bool {
        self.bind.as_ref().is_some_and(|hook| !matches!(hook.script, Script::Optional(_)))
    }
}
