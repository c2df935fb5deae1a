/**
 * Bare repositories and quick commits into them, by git's plumbing and without a work tree. Neither the user's nor the
 * system's git configuration is read, and no `GIT_*` variable of ours reaches git.
 */
import { Clock, Config, Context, Effect, FileSystem, Layer, Option, Path, Schema, Semaphore, Stream } from "effect"
import type { PlatformError } from "effect/PlatformError"
import { ChildProcess, ChildProcessSpawner } from "effect/process"

/** A git command of the sandbox did not succeed. Not retried. */
export class GitFailed extends Schema.TaggedError<GitFailed>()("GitFailed", {
  command: Schema.String,
  output: Schema.String
}) {
  override get message(): string {
    return `git ${this.command} did not succeed: ${this.output.trim()}`
  }
}

/** What a file becomes: its content, an executable, a link, a submodule's commit, or nothing (`null`: deleted). */
export type Entry =
  | string
  | Uint8Array
  | { readonly executable: string }
  | { readonly symlink: string }
  | { readonly submodule: string }
  | null

export interface Commit {
  /** Default: `main`. It is created where it is absent. */
  readonly branch?: string
  /** Path → entry; a path that is not named stays as it is in the parent. */
  readonly files: Readonly<Record<string, Entry>>
  readonly message?: string
  /** Default: the branch's tip. From another commit the branch is forced; `none` makes a commit without a parent. */
  readonly parent?: string
}

export interface GitRepository {
  /** The bare repository's folder. */
  readonly folder: string
  /** Answers the commit's id. Commits of one repository are made one after the other. */
  readonly commit: (commit: Commit) => Effect.Effect<string, GitFailed>
  /** Sets a ref (`refs/heads/main`) to a commit, from wherever it was. */
  readonly setRef: (ref: string, commit: string) => Effect.Effect<void, GitFailed>
  readonly deleteRef: (ref: string) => Effect.Effect<void, GitFailed>
  /** Makes or replaces an annotated tag; answers the id of the tag object. */
  readonly annotatedTag: (name: string, commit: string, message?: string) => Effect.Effect<string, GitFailed>
  /** The id that a ref, an id or an expression like `main^` stands for. */
  readonly resolve: (revision: string) => Effect.Effect<Option.Option<string>>
}

/** The git program in a clean environment. */
export class Git extends Context.Service<
  Git,
  {
    /** Runs to the end and answers the trimmed output. */
    readonly run: (args: ReadonlyArray<string>, stdin?: Stream.Stream<Uint8Array>) => Effect.Effect<string, GitFailed>
    /** What its processes find in their environment, and nothing else. */
    readonly env: Readonly<Record<string, string>>
  }
>()("stoker/sandbox/Git") {
  static readonly layerNoDeps = Layer.effect(
    Git,
    Effect.gen(function* () {
      const spawner = yield* ChildProcessSpawner.ChildProcessSpawner
      const env = {
        PATH: yield* Config.String("PATH"),
        GIT_CONFIG_NOSYSTEM: "1",
        GIT_CONFIG_GLOBAL: "/dev/null",
        GIT_TERMINAL_PROMPT: "0",
        GIT_COMMITTER_NAME: person.name,
        GIT_COMMITTER_EMAIL: person.email
      }
      const run = Effect.fnUntraced(
        function* (args: ReadonlyArray<string>, stdin?: Stream.Stream<Uint8Array>) {
          const handle = yield* spawner.spawn(ChildProcess.make("git", args, { env, stdin: stdin ?? "ignore" }))
          const [output, errors, code] = yield* Effect.all(
            [
              Stream.mkString(Stream.decodeText(handle.stdout)),
              Stream.mkString(Stream.decodeText(handle.stderr)),
              handle.exitCode
            ],
            { concurrency: 3 }
          )
          if (code !== 0) return yield* new GitFailed({ command: args.join(" "), output: errors })
          return output.trim()
        },
        Effect.scoped,
        Effect.catchTag("PlatformError", (error) => new GitFailed({ command: "", output: error.message }))
      )
      return Git.of({ run, env })
    })
  )
}

/** A new, empty bare repository; its `HEAD` is `main`, which has no commit yet. */
export const make: (
  folder: string
) => Effect.Effect<GitRepository, GitFailed | PlatformError, Git | FileSystem.FileSystem | Path.Path> =
  Effect.fnUntraced(function* (folder: string) {
    const fileSystem = yield* FileSystem.FileSystem
    const path = yield* Path.Path
    const git = yield* Git
    const one = yield* Semaphore.make(1)
    const run = (...args: ReadonlyArray<string>) => git.run(["--git-dir", folder, ...args])

    yield* git.run(["init", "--quiet", "--bare", "--template=", "--initial-branch=main", folder])
    yield* fileSystem.writeFileString(path.join(folder, "config"), configuration)

    const resolve = (revision: string) =>
      Effect.option(run("rev-parse", "--verify", "--quiet", "--end-of-options", revision))

    const commit = Effect.fnUntraced(function* (change: Commit) {
      const ref = `refs/heads/${change.branch ?? "main"}`
      const parent =
        change.parent === undefined
          ? yield* resolve(ref)
          : Option.liftPredicate(change.parent, (parent) => parent !== "none")
      const now = yield* Clock.currentTimeMillis
      return yield* git.run(
        ["--git-dir", folder, "fast-import", "--quiet", "--force"],
        Stream.fromIterable(importCommands(ref, change, parent, Math.floor(now / 1000)))
      )
    }, one.withPermit)

    return {
      folder,
      commit,
      resolve,
      setRef: (ref, commit) => Effect.asVoid(run("update-ref", ref, commit)),
      deleteRef: (ref) => Effect.asVoid(run("update-ref", "-d", ref)),
      annotatedTag: (tag, commit, message = tag) =>
        Effect.andThen(
          run("tag", "--annotate", "--force", "--message", message, "--", tag, commit),
          run("rev-parse", `refs/tags/${tag}`)
        )
    }
  })

const person = { name: "Stoker Sandbox", email: "sandbox@stoker.invalid" }

/** What hosted git allows by default: partial clones, any commit by its id, pushes, and every kind of forced push. */
const configuration = `[core]
\trepositoryformatversion = 0
\tfilemode = true
\tbare = true
[uploadpack]
\tallowFilter = true
\tallowAnySHA1InWant = true
[http]
\treceivepack = true
[receive]
\tdenyDeleteCurrent = ignore
[gc]
\tauto = 0
`

const encoder = new TextEncoder()
const line = (text: string) => encoder.encode(`${text}\n`)

/** Any bytes in git's fast-import language. */
const data = (content: string | Uint8Array) => {
  const bytes = typeof content === "string" ? encoder.encode(content) : content
  return [line(`data ${bytes.length}`), bytes, line("")]
}

const quoted = (path: string) => `"${path.replace(/["\\]/g, "\\$&").replaceAll("\n", "\\n")}"`

const entryCommands = (path: string, entry: Entry): ReadonlyArray<Uint8Array> => {
  if (entry === null) return [line(`D ${quoted(path)}`)]
  if (typeof entry === "string" || entry instanceof Uint8Array) {
    return [line(`M 100644 inline ${quoted(path)}`), ...data(entry)]
  }
  if ("executable" in entry) return [line(`M 100755 inline ${quoted(path)}`), ...data(entry.executable)]
  if ("symlink" in entry) return [line(`M 120000 inline ${quoted(path)}`), ...data(entry.symlink)]
  return [line(`M 160000 ${entry.submodule} ${quoted(path)}`)]
}

const importCommands = (
  ref: string,
  change: Commit,
  parent: Option.Option<string>,
  seconds: number
): ReadonlyArray<Uint8Array> => [
  line(`commit ${ref}`),
  line("mark :1"),
  line(`committer ${person.name} <${person.email}> ${seconds} +0000`),
  ...data(change.message ?? `Change ${Object.keys(change.files).length} files`),
  ...Option.match(parent, { onNone: () => [], onSome: (commit) => [line(`from ${commit}`)] }),
  ...Object.entries(change.files).flatMap(([path, entry]) => entryCommands(path, entry)),
  line(""),
  // Prints the id of the commit.
  line("get-mark :1")
]
