/**
 * Logs, traces and metrics of a process. Exported by OTLP where the standard `OTEL_*` variables name an endpoint, else
 * off: ids of traces are made all the same, so that log lines of the processes along a line find each other.
 */
import * as NodeHttpClient from "@effect/platform-node/NodeHttpClient"
import { Config, ConfigProvider, Effect, Layer, Option } from "effect"
import * as Logs from "./Logs.ts"

const endpoint = (signal: "TRACES" | "METRICS" | "LOGS") =>
  Config.option(Config.NonEmptyString(`OTEL_EXPORTER_OTLP_${signal}_ENDPOINT`))

const otlp = (serviceName: string, serviceVersion: string) =>
  Layer.unwrap(
    Effect.gen(function* () {
      const base = yield* Config.option(Config.NonEmptyString("OTEL_EXPORTER_OTLP_ENDPOINT"))
      const own = yield* Effect.all([endpoint("TRACES"), endpoint("METRICS"), endpoint("LOGS")])
      const [traces, metrics, logs] = own.map((one) => Option.isSome(base) || Option.isSome(one))
      if (traces !== true && metrics !== true && logs !== true) return Layer.empty
      // Loaded only where it is used: an agent's memory counts.
      const { OtlpLogger, OtlpMetrics, OtlpSerialization, OtlpTracer } = yield* Effect.promise(
        () => import("./OtlpModules.ts")
      )
      const resource = { serviceName, serviceVersion }
      return Layer.mergeAll(
        traces === true ? OtlpTracer.layerFromConfig({ resource }) : Layer.empty,
        metrics === true ? OtlpMetrics.layerFromConfig({ resource }) : Layer.empty,
        logs === true ? OtlpLogger.layerFromConfig({ resource, mergeWithExisting: true }) : Layer.empty
      ).pipe(
        Layer.provide(OtlpSerialization.layerJson),
        // The standard's default; Effect exports only what these variables name.
        Layer.provide(
          ConfigProvider.layerAdd(
            ConfigProvider.fromUnknown({
              OTEL_TRACES_EXPORTER: "otlp",
              OTEL_METRICS_EXPORTER: "otlp",
              OTEL_LOGS_EXPORTER: "otlp"
            })
          )
        ),
        // Fresh: layers are shared, and nobody else's HTTP client shall be this one.
        Layer.provide(Layer.fresh(NodeHttpClient.layerNodeHttpOptions({ keepAlive: true })))
      )
    })
  )

/**
 * @param options.service name in traces, e.g. `stoker-controller`; `OTEL_SERVICE_NAME` wins
 * @param options.version version of the build
 */
export const layer = (options: { readonly service: string; readonly version: string }) =>
  Layer.merge(
    otlp(options.service, options.version),
    Layer.suspend(() => Logs.layer(process.stdout.isTTY === true))
  )
