/**
 * What the agent is told by its environment (set by injection, contract of the sidecar).
 */
import { Config, Context, Effect, FileSystem, Layer, Option } from "effect"
import * as Names from "../api/Names.ts"

export class Settings extends Context.Service<
  Settings,
  {
    readonly podName: string
    readonly podNamespace: string
    /** Absent where an older injection does not tell it. */
    readonly podUid: Option.Option<string>
    /** The GatewaySync that this gateway follows. */
    readonly crName: string
    readonly crNamespace: string
    readonly gatewayName: string
    readonly profile: string
    /** Folder of the clone; may be emptied at any time. */
    readonly repoPath: string
    /** The gateway's data directory. */
    readonly dataPath: string
    readonly gatewayPort: number
    readonly gatewayTls: boolean
    /** Where the gateway does not share our pod, as `http://10.0.0.7:8088`. */
    readonly gatewayFixedUrl: Option.Option<string>
    readonly apiKeyFile: string
    readonly tokenFile: Option.Option<string>
    readonly sshKeyFile: Option.Option<string>
    readonly knownHostsFile: Option.Option<string>
    /** Labels of the pod, read afresh; none where no file names them. */
    readonly labels: Effect.Effect<Readonly<Record<string, string>>>
  }
>()("stoker/agent/Settings") {
  /**
   * `POD_NAME POD_NAMESPACE POD_UID CR_NAME CR_NAMESPACE GATEWAY_NAME PROFILE REPO_PATH DATA_PATH GATEWAY_PORT GATEWAY_TLS
   * GATEWAY_URL API_KEY_FILE GIT_TOKEN_FILE GIT_SSH_KEY_FILE GIT_KNOWN_HOSTS_FILE`, and `LABELS_FILE` (downward API:
   * `key="value"`).
   */
  static readonly layer = Layer.effect(
    Settings,
    Effect.gen(function* () {
      const fs = yield* FileSystem.FileSystem
      const optional = (name: string) => Config.option(Config.NonEmptyString(name))
      const podName = yield* Config.NonEmptyString("POD_NAME")
      const podNamespace = yield* Config.NonEmptyString("POD_NAMESPACE")
      const labelsFile = yield* optional("LABELS_FILE")
      return {
        podName,
        podNamespace,
        podUid: yield* optional("POD_UID"),
        crName: yield* Config.NonEmptyString("CR_NAME"),
        crNamespace: yield* Config.NonEmptyString("CR_NAMESPACE").pipe(Config.withDefault(podNamespace)),
        gatewayName: yield* Config.NonEmptyString("GATEWAY_NAME").pipe(Config.withDefault(podName)),
        profile: yield* Config.NonEmptyString("PROFILE").pipe(Config.withDefault("default")),
        repoPath: yield* Config.NonEmptyString("REPO_PATH").pipe(Config.withDefault("/repo")),
        dataPath: yield* Config.NonEmptyString("DATA_PATH"),
        gatewayPort: yield* Config.Port("GATEWAY_PORT").pipe(Config.withDefault(8088)),
        gatewayTls: yield* Config.Boolean("GATEWAY_TLS").pipe(Config.withDefault(false)),
        gatewayFixedUrl: yield* optional("GATEWAY_URL"),
        apiKeyFile: yield* Config.NonEmptyString("API_KEY_FILE"),
        tokenFile: yield* optional("GIT_TOKEN_FILE"),
        sshKeyFile: yield* optional("GIT_SSH_KEY_FILE"),
        knownHostsFile: yield* optional("GIT_KNOWN_HOSTS_FILE"),
        labels: Option.match(labelsFile, {
          onNone: () => Effect.succeed({}),
          onSome: (file) =>
            fs.readFileString(file).pipe(
              Effect.map(parseLabels),
              Effect.orElseSucceed(() => ({}))
            )
        })
      }
    })
  )
}

/** Lines `key="value"`, the value quoted as in Go. */
export const parseLabels = (text: string): Readonly<Record<string, string>> =>
  Object.fromEntries(
    Array.from(text.matchAll(/^([^=\n]+)="((?:[^"\\\n]|\\.)*)"$/gm), ([, key, value]) => [
      key!,
      value!.replace(/\\(.)/g, "$1")
    ])
  )

/** Label `apps.kubernetes.io/pod-index`, else the number at the end of the pod's name, else 0. */
export const podOrdinal = (podName: string, labels: Readonly<Record<string, string>>): number =>
  Number(/^\d+$/.exec(labels[Names.pod.podIndex] ?? "")?.[0] ?? /(\d+)$/.exec(podName)?.[1] ?? 0)
