//! The real machine: programs, instance metadata, SSM, TLS to ourselves.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, Region, imds};
use aws_sdk_ssm::error::{DisplayErrorContext, ProvideErrorMetadata};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::{Command, Failure, Machine, Output};

/// For one question to the network.
const ASK_TIMEOUT: Duration = Duration::from_secs(10);

/// How much of what a program writes is kept.
const MAX_OUTPUT: usize = 64 * 1024;

/// The machine that this process runs on.
pub(crate) struct RealMachine {
    runtime: Runtime,
}

impl RealMachine {
    /// On this runtime.
    pub(crate) fn new(runtime: Runtime) -> Self {
        Self { runtime }
    }
}

impl Machine for RealMachine {
    fn run(&self, command: &Command) -> Result<Output, String> {
        self.runtime.block_on(run(command))
    }

    fn instance_id(&self) -> Result<String, Failure> {
        let client = imds::Client::builder().build();
        let asked = self
            .runtime
            .block_on(async { timeout(ASK_TIMEOUT, client.get("/latest/meta-data/instance-id")).await });
        match asked {
            Ok(Ok(id)) => Ok(id.as_ref().to_owned()),
            Ok(Err(error)) => Err(Failure::NotYet(format!(
                "instance metadata: {}",
                DisplayErrorContext(&error)
            ))),
            Err(_) => Err(Failure::NotYet("instance metadata: no answer".to_owned())),
        }
    }

    fn parameter(&self, region: &str, name: &str) -> Result<String, Failure> {
        self.runtime.block_on(parameter(region, name))
    }

    fn ask(&self, server_name: &str, certificate: &str) -> Result<(), String> {
        let asked = self
            .runtime
            .block_on(async { timeout(ASK_TIMEOUT, ask(server_name, certificate)).await });
        asked.unwrap_or_else(|_| Err("no answer".to_owned()))
    }

    fn device_number(&self, device: &Path) -> Option<u64> {
        std::fs::metadata(device)
            .ok()
            .map(|meta| meta.rdev())
            .filter(|number| *number != 0)
    }

    fn sleep(&self, pause: Duration) {
        std::thread::sleep(pause);
    }

    fn say(&self, line: &str) {
        let line = format!("koi-bootstrap: {}\n", crate::hush::without(line));
        let _ = std::io::stderr().write_all(line.as_bytes());
        // The unit copies its output to the console; a failure must get there however this was started.
        if line.contains(" failed: ")
            && let Ok(mut console) = OpenOptions::new().write(true).open("/dev/console")
        {
            let _ = console.write_all(line.as_bytes());
        }
    }
}

async fn run(command: &Command) -> Result<Output, String> {
    let child = tokio::process::Command::new(&command.program)
        .args(&command.arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| error.to_string())?;
    let ended = timeout(command.timeout, child.wait_with_output()).await;
    let output = ended.map_err(|_| format!("did not end within {} s", command.timeout.as_secs()))?;
    let output = output.map_err(|error| error.to_string())?;
    let mut bytes = output.stdout;
    bytes.extend(output.stderr);
    bytes.truncate(MAX_OUTPUT);
    Ok(Output {
        code: output.status.code().unwrap_or(-1),
        text: String::from_utf8_lossy(&bytes).into_owned(),
    })
}

async fn parameter(region: &str, name: &str) -> Result<String, Failure> {
    let limits = TimeoutConfig::builder()
        .operation_timeout(ASK_TIMEOUT * 2)
        .operation_attempt_timeout(ASK_TIMEOUT)
        .build();
    let config = aws_config::defaults(BehaviorVersion::v2026_01_12())
        .region(Region::new(region.to_owned()))
        .timeout_config(limits)
        .load()
        .await;
    let asked = aws_sdk_ssm::Client::new(&config)
        .get_parameter()
        .name(name)
        .with_decryption(true)
        .send()
        .await;
    let answer = asked.map_err(|error| {
        let reason = match error.code() {
            Some(code) => format!("{code}: {}", error.message().unwrap_or("no message")),
            None => DisplayErrorContext(&error).to_string(),
        };
        // Everything here may heal: the parameter is written after the launch, and permissions take their time to spread.
        Failure::NotYet(format!("parameter {name}: {reason}"))
    })?;
    let value = answer.parameter.and_then(|parameter| parameter.value);
    value.ok_or_else(|| Failure::NotYet(format!("parameter {name} has no value")))
}

async fn ask(server_name: &str, certificate: &str) -> Result<(), String> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(certificate.as_bytes()) {
        roots
            .add(certificate.map_err(|error| error.to_string())?)
            .map_err(|error| error.to_string())?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(server_name.to_owned()).map_err(|error| error.to_string())?;
    let stream = TcpStream::connect(("127.0.0.1", 443))
        .await
        .map_err(|error| error.to_string())?;
    let mut stream = TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .map_err(|error| error.to_string())?;
    let request = format!("GET /healthz HTTP/1.1\r\nHost: {server_name}\r\nConnection: close\r\n\r\n");
    stream
        .write_all(request.as_bytes())
        .await
        .map_err(|error| error.to_string())?;
    let mut answer = Vec::new();
    // nginx may close without saying goodbye; what came before counts.
    let _ = (&mut stream).take(16 * 1024).read_to_end(&mut answer).await;
    let text = String::from_utf8_lossy(&answer);
    let status = text.lines().next().unwrap_or("no answer");
    if status.contains(" 200 ") {
        Ok(())
    } else {
        Err(status.to_owned())
    }
}
