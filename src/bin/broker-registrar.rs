//! The `broker-registrar` command: the errands of that name and `broker-deregistrar`.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use clap::Parser;
use docker_broker::{
    cli::{EXIT_CONFIG, EXIT_RUNTIME, RegistrarCli, RegistrarCommand},
    cloud_foundry::{self, CfError, Settings},
};

fn main() -> ExitCode {
    let cli = RegistrarCli::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(run(&cli)),
        Err(error) => Err(CfError::Output(error)),
    };
    let Err(error) = outcome else { return ExitCode::SUCCESS };
    // Nowhere to tell of a standard error that is closed.
    drop(writeln!(io::stderr(), "broker-registrar: {error}"));
    ExitCode::from(match error {
        CfError::Settings { .. } | CfError::CaCertificate { .. } | CfError::Proxy { .. } => {
            EXIT_CONFIG
        }
        _ => EXIT_RUNTIME,
    })
}

async fn run(cli: &RegistrarCli) -> Result<(), CfError> {
    let mut out = io::stdout();
    match &cli.command {
        RegistrarCommand::Register(args) => {
            let settings = Settings::load(&args.config)?;
            cloud_foundry::register(&settings, args.dry_run, &mut out).await
        }
        RegistrarCommand::Deregister(args) => {
            let settings = Settings::load(&args.config)?;
            cloud_foundry::deregister(&settings, args.dry_run, &mut out).await
        }
        RegistrarCommand::Version => {
            Ok(writeln!(out, concat!("broker-registrar ", env!("CARGO_PKG_VERSION")))?)
        }
    }
}
