import * as Effect from "effect/Effect"
import * as HttpRouter from "effect/http/HttpRouter"
import * as HttpServerRequest from "effect/http/HttpServerRequest"
import * as HttpServerResponse from "effect/http/HttpServerResponse"
import * as Schema from "effect/Schema"
import type { SimulatedGateway } from "../SimulatedGateway.ts"
import { Designer } from "./Designers.ts"
import { RouteFault } from "./Faults.ts"
import { type App, Phase } from "./GatewayApi.ts"
import { ScanBehaviour } from "./Scanner.ts"

const json = (body: unknown) => HttpServerResponse.jsonUnsafe(body)
const done = HttpServerResponse.empty({ status: 204 })

/**
 * The simulated gateway by HTTP, for other processes: everything below `/__sim/`.
 *
 * | route | |
 * |---|---|
 * | `GET state`, `POST state {"state"}` | `down` stops, anything else starts when down, else sets the state |
 * | `POST restart`, `POST commission` | |
 * | `GET model`, `GET history`, `GET log`, `GET counters` | |
 * | `GET scans`, `GET scans/:index` | the scan POSTs so far; the one with this index, as soon as it has come |
 * | `GET designers`, `POST designers`, `DELETE designers/:id` | |
 * | `POST force-secure {"target"}` | redirects all but `StatusPing` there; null: no more |
 * | `POST faults` (a `RouteFault`), `DELETE faults`, `POST scan-behaviour` (a `ScanBehaviour`) | |
 */
export const make = Effect.fnUntraced(function* (gateway: Omit<SimulatedGateway, "controlUrl">) {
  const router = (yield* HttpRouter.make).prefixed("/__sim")
  const body = <A, I>(schema: Schema.Codec<A, I>, use: (value: A) => Effect.Effect<unknown>) =>
    HttpServerRequest.schemaBodyJson(schema).pipe(
      Effect.flatMap(use),
      Effect.as(done),
      Effect.catchCause(() => Effect.succeed(HttpServerResponse.empty({ status: 400 })))
    )

  yield* router.add(
    "GET",
    "/state",
    Effect.map(gateway.phase, (state) => json({ state }))
  )
  yield* router.add(
    "POST",
    "/state",
    body(Schema.Struct({ state: Phase }), ({ state }) => gateway.setPhase(state))
  )
  yield* router.add("POST", "/restart", Effect.as(gateway.restart, done))
  yield* router.add("POST", "/commission", Effect.as(gateway.commission, done))
  yield* router.add("GET", "/model", Effect.map(gateway.model, json))
  yield* router.add("GET", "/history", Effect.map(gateway.history, json))
  yield* router.add("GET", "/log", Effect.map(gateway.log, json))
  yield* router.add("GET", "/counters", Effect.map(gateway.counters, json))
  yield* router.add("GET", "/scans", Effect.map(gateway.scans, json))
  yield* router.add(
    "GET",
    "/scans/:index",
    HttpRouter.schemaPathParams(Schema.Struct({ index: Schema.FiniteFromString })).pipe(
      Effect.flatMap(({ index }) => gateway.awaitScan(index)),
      Effect.map(json),
      Effect.catchTag("SchemaError", () => Effect.succeed(HttpServerResponse.empty({ status: 400 })))
    )
  )
  yield* router.add("GET", "/designers", Effect.map(gateway.designers.list, json))
  yield* router.add("POST", "/designers", body(Designer, gateway.designers.add))
  yield* router.add(
    "DELETE",
    "/designers/:id",
    HttpRouter.schemaPathParams(Schema.Struct({ id: Schema.String })).pipe(
      Effect.flatMap(({ id }) => gateway.designers.remove(id)),
      Effect.as(done),
      Effect.catchTag("SchemaError", () => Effect.succeed(HttpServerResponse.empty({ status: 400 })))
    )
  )
  yield* router.add(
    "POST",
    "/force-secure",
    body(Schema.Struct({ target: Schema.NullOr(Schema.String) }), ({ target }) =>
      gateway.forceSecure(target ?? undefined)
    )
  )
  yield* router.add("POST", "/faults", body(RouteFault, gateway.faults.inject))
  yield* router.add("DELETE", "/faults", Effect.as(gateway.faults.clear, done))
  yield* router.add("POST", "/scan-behaviour", body(ScanBehaviour, gateway.setScanBehaviour))

  const app: App = router.asHttpEffect().pipe(
    Effect.scoped,
    Effect.catchCause(() => Effect.succeed(HttpServerResponse.empty({ status: 404 })))
  )
  return app
})
