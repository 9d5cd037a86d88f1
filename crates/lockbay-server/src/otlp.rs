//! Spans to an OpenTelemetry collector: OTLP, protobuf over HTTP, if
//! `OTEL_EXPORTER_OTLP_ENDPOINT` names one.
//!
//! Spans are collected in a bounded queue and sent in batches from a thread of its own; what does
//! not fit is dropped, and a collector that is away costs nobody anything. The requests go out over
//! the client that the server has for handlers anyway.

use std::time::Duration;

use anyhow::Context;
use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use rustls::RootCertStore;
use tokio::runtime::Handle;
use tracing::Subscriber;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::registry::LookupSpan;

use crate::outbound::tls;

/// Where to, as OpenTelemetry names it.
const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
/// Which spans, in the words of `RUST_LOG`.
const FILTER: &str = "LOCKBAY_TRACE";
/// How long a batch may take to be sent.
const SENT_WITHIN: Duration = Duration::from_secs(5);

/// What is sent is sent when this is dropped, within a bounded time.
pub(crate) struct Export(SdkTracerProvider);

impl Drop for Export {
    fn drop(&mut self) {
        if let Err(error) = self.0.shutdown_with_timeout(Duration::from_secs(1)) {
            tracing::debug!(%error, "the last spans were not sent");
        }
    }
}

/// The layer that sends spans, and what keeps it alive; none if no collector is named.
pub(crate) fn layer<S>() -> anyhow::Result<Option<(impl Layer<S>, Export)>>
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
{
    let Some(endpoint) = std::env::var(ENDPOINT).ok().filter(|endpoint| !endpoint.is_empty())
    else {
        return Ok(None);
    };
    let exporter = SpanExporter::builder()
        .with_http()
        .with_http_client(Sender::new()?)
        .with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/')))
        .with_timeout(SENT_WITHIN)
        .build()
        .with_context(|| format!("{ENDPOINT} cannot be used: {endpoint:?}"))?;
    let resource = Resource::builder()
        .with_service_name("lockbay")
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build();
    let provider =
        SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("lockbay"));
    let filter = std::env::var(FILTER).unwrap_or_else(|_| "lockbay=debug".into());
    let filter = EnvFilter::try_new(&filter).with_context(|| format!("{FILTER}: {filter:?}"))?;
    Ok(Some((layer.with_filter(filter), Export(provider))))
}

/// Sends over the runtime of the server, whichever thread asks.
#[derive(Debug)]
struct Sender {
    http: reqwest::Client,
    runtime: Handle,
}

impl Sender {
    fn new() -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls(roots)?)
            .no_proxy() // no proxy of the environment is asked for anything here
            .redirect(reqwest::redirect::Policy::none())
            .timeout(SENT_WITHIN)
            .build()?;
        Ok(Sender { http, runtime: Handle::current() })
    }
}

#[async_trait::async_trait]
impl HttpClient for Sender {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let http = self.http.clone();
        let sent = self.runtime.spawn(async move {
            let mut answer = http.execute(request.try_into()?).await?;
            let mut response = Response::new(Bytes::new());
            *response.status_mut() = answer.status();
            std::mem::swap(response.headers_mut(), answer.headers_mut());
            // What a collector says beyond its status is of no use here, and has no limit.
            Ok::<_, reqwest::Error>(response)
        });
        Ok(sent.await??)
    }
}
