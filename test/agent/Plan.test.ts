import { assert, describe, it } from "@effect/vitest"
import { Result } from "effect"
import type * as Inventory from "../../src/agent/Inventory.ts"
import * as Plan from "../../src/agent/Plan.ts"
import type * as Profile from "../../src/api/Profile.ts"

const variables = {
  GatewayName: "press-1",
  PodName: "press-1-0",
  PodOrdinal: 0,
  Namespace: "plant",
  Ref: "main",
  Commit: "c",
  CRName: "site",
  Labels: {},
  Vars: { site: "north" }
}

const profile = (mappings: ReadonlyArray<Profile.Mapping>): Profile.Effective => ({
  mappings,
  syncPeriod: 30,
  dryRun: false,
  designerSessionPolicy: "proceed",
  paused: false
})

/** Blobs by path: the id is the path with a mark. `@` links, `#` is a submodule. */
const tree = (...paths: ReadonlyArray<string>): ReadonlyArray<Plan.TreeEntry> =>
  paths
    .map((path) => ({
      mode: path.startsWith("@") ? "120000" : path.startsWith("#") ? "160000" : "100644",
      path: path.replace(/^[@#]/, "")
    }))
    .map((entry) => ({ ...entry, id: `id:${entry.path}` }))
    .sort((a, b) => (a.path < b.path ? -1 : 1))

const owned = (...paths: ReadonlyArray<string>): Inventory.Files =>
  Object.fromEntries(paths.map((path) => [path, { id: "old", size: 1, modified: 1 }]))

const run = (
  mappings: ReadonlyArray<Profile.Mapping>,
  entries: ReadonlyArray<Plan.TreeEntry>,
  options: {
    readonly inventory?: Inventory.Files
    readonly excludePatterns?: ReadonlyArray<string>
    readonly allowMassDeletion?: boolean
  } = {}
): Result.Result<Plan.Plan, Plan.PlanRefused> =>
  Result.flatMap(Plan.mappings(profile(mappings), variables), (rendered) =>
    Plan.make({
      mappings: rendered,
      tree: entries,
      inventory: options.inventory ?? {},
      excludePatterns: options.excludePatterns ?? [],
      allowMassDeletion: options.allowMassDeletion ?? false
    })
  )

/** `destination < source` of every file, sorted. */
const shown = (result: Result.Result<Plan.Plan, Plan.PlanRefused>): ReadonlyArray<string> =>
  Array.from(Result.getOrThrow(result).files, ([path, source]) => `${path} < ${source.path}`).sort()

const problem = (result: Result.Result<Plan.Plan, Plan.PlanRefused>): string => {
  assert.isTrue(Result.isFailure(result), "a refusal was expected")
  return Result.isFailure(result) ? result.failure.message : ""
}

const dir = (source: string, destination: string, more: Partial<Profile.Mapping> = {}): Profile.Mapping => ({
  source,
  destination,
  ...more
})

describe("Plan", () => {
  describe("what goes where", () => {
    const site = tree("site/a.json", "site/sub/b.json", "other/c.json", "one.txt")
    const cases: ReadonlyArray<readonly [string, ReadonlyArray<Profile.Mapping>, ReadonlyArray<string>]> = [
      [
        "a folder",
        [dir("site", "projects")],
        ["projects/a.json < site/a.json", "projects/sub/b.json < site/sub/b.json"]
      ],
      [
        "slashes at the end, or not: the same",
        [dir("site/", "./projects//")],
        ["projects/a.json < site/a.json", "projects/sub/b.json < site/sub/b.json"]
      ],
      ["a file", [dir("one.txt", "config/two.txt", { type: "file" })], ["config/two.txt < one.txt"]],
      ["a folder into the root", [dir("site/sub", ".")], ["b.json < site/sub/b.json"]],
      [
        "the whole repository",
        [dir(".", "projects/p")],
        [
          "projects/p/one.txt < one.txt",
          "projects/p/other/c.json < other/c.json",
          "projects/p/site/a.json < site/a.json",
          "projects/p/site/sub/b.json < site/sub/b.json"
        ]
      ],
      [
        "a later mapping overlays",
        [dir("site", "config"), dir("one.txt", "config/a.json")],
        ["config/a.json < one.txt", "config/sub/b.json < site/sub/b.json"]
      ],
      [
        "variables",
        [dir("{{`site`}}", "projects/{{.GatewayName}}-{{.Vars.site}}")],
        ["projects/press-1-north/a.json < site/a.json", "projects/press-1-north/sub/b.json < site/sub/b.json"]
      ],
      ["a missing source is skipped", [dir("nowhere", "projects"), dir("one.txt", "config/x")], ["config/x < one.txt"]],
      ["a name that only begins the same is another", [dir("sit", "projects")], []]
    ]
    for (const [name, mappings, expected] of cases) {
      it(`is ${name}`, () => assert.deepStrictEqual(shown(run(mappings, site)), expected))
    }
  })

  describe("what is refused", () => {
    const cases: ReadonlyArray<readonly [string, ReadonlyArray<Profile.Mapping>, ReadonlyArray<string>, RegExp]> = [
      ["no mappings", [], [], /no mappings; files stay/],
      [
        "a required source that is missing",
        [dir("x", "config", { required: true })],
        ["y"],
        /x → config: the source is required/
      ],
      [
        "a file said to be a folder",
        [dir("x", "config/x", { type: "dir" })],
        ["x"],
        /type "dir", and the source is a file/
      ],
      [
        "a folder said to be a file",
        [dir("x", "config/x", { type: "file" })],
        ["x/y"],
        /type "file", and the source is a dir/
      ],
      ["a file into a folder", [dir("x", "config/")], ["x"], /must name a file/],
      ["a file as the root", [dir("x", ".")], ["x"], /must name a file/],
      ["an absolute destination", [dir("x", "/etc")], ["x/y"], /"\/etc" is an absolute path/],
      ["a way up after templating", [dir("x", "config/{{`..`}}/{{`..`}}")], ["x/y"], /has ".." in it/],
      ["an unknown variable", [dir("{{.Vars.line}}", "config")], [], /map has no entry for key "line"/],
      ["template: true", [dir("x", "config", { template: true })], ["x/y"], /"template: true" is not supported yet/],
      ["patches", [dir("x", "config", { patches: [{ set: { a: "b" } }] })], ["x/y"], /"patches" are not supported yet/],
      ["a link in a folder", [dir("x", "config")], ["x/a", "@x/b"], /x\/b is a symbolic link/],
      ["a link as the source", [dir("x", "config/x")], ["@x"], /x is a symbolic link/],
      ["a link on the way to the source", [dir("x/y", "config")], ["@x"], /x is a symbolic link/],
      ["a submodule", [dir("x", "config")], ["#x/mod"], /x\/mod is a submodule/],
      ["a way up inside of a tree", [dir("x", "config")], ["x/../../etc/passwd"], /has ".." in it/],
      ["a backslash", [dir("x", "config")], ["x/a\\b"], /backslash/],
      ["our own folder", [dir("x", ".stoker")], ["x/applied.json"], /folder of Stoker's own/],
      ["our own folder as an exact file", [dir("x", ".stoker/journal.json")], ["x"], /folder of Stoker's own/],
      ["our own folder in other letters", [dir("x", ".")], ["x/.Stoker/journal.json"], /folder of Stoker's own/],
      ["our own folder, with a letter that cannot be seen", [dir("x", ".")], ["x/.sto\u200cker/owner"], /Stoker's own/],
      ["the former agent's folder in other letters", [dir("x", ".SYNC-staging")], ["x/a"], /Stoker's own/],
      ["a name that no disk takes", [dir("x", "config")], [`x/${"ä".repeat(128)}`], /longer than 255 bytes/],
      ["names in two letter cases", [dir("x", "projects")], ["x/View", "x/view"], /differ only in letter case/],
      [
        "folders in two letter cases",
        [dir("x", "projects")],
        ["x/Line/a", "x/line/b"],
        /projects\/Line and projects\/line differ/
      ],
      [
        "composed and decomposed letters",
        [dir("x", "projects")],
        ["x/\u00e4", "x/a\u0308"],
        /how letters are composed/
      ],
      [
        "a file that is a folder",
        [dir("x", "config/a"), dir("y", "config/a/b")],
        ["x", "y"],
        /config\/a would be a file and/
      ]
    ]
    for (const [name, mappings, paths, expected] of cases) {
      it(`is ${name}`, () => assert.match(problem(run(mappings, tree(...paths))), expected))
    }

    it("names the first problems and counts the rest", () => {
      const paths = Array.from({ length: 9 }, (_, index) => `@x/${index}`)
      assert.match(problem(run([dir("x", "config")], tree(...paths))), /x\/4 is a symbolic.*; and 4 more$/)
    })
  })

  it("takes a name of 255 bytes", () => {
    assert.lengthOf(shown(run([dir("x", "config")], tree(`x/${"a".repeat(255)}`))), 1)
  })

  describe("what belongs to the gateway", () => {
    const theirs = [
      "config/local/a",
      "config/resources/local/a",
      "config/ignition/keys/a",
      "config/ignition/tags/valueStore.idb",
      "db/config.idb",
      "var/a",
      "logs/a",
      "modules.json",
      "gateway.xml",
      "redundancy.xml",
      "ignition.conf",
      "commissioning.json",
      "projects/.resources/a",
      "projects/p/.resources/a/b",
      "projects/p/x.idb"
    ]
    it("is left out of a folder mapping", () => {
      const paths = [...theirs, "config/resources/core/ignition/a", "projects/p/project.json"]
      assert.deepStrictEqual(shown(run([dir(".", ".")], tree(...paths))), [
        "config/resources/core/ignition/a < config/resources/core/ignition/a",
        "projects/p/project.json < projects/p/project.json"
      ])
    })
    it("is left out in other letters too: on some disks it is the same file", () => {
      const masked = [
        ...theirs.map((path) => path.toUpperCase()),
        "Config/Local/a",
        "config/re\u017fources/local/a",
        "config/lo\u200dcal/a",
        "Projects/p/.Resources/a"
      ]
      assert.deepStrictEqual(shown(run([dir(".", ".")], tree(...masked))), [])
      const plan = Result.getOrThrow(run([dir("x", "config/x")], tree("x"), { inventory: owned(...masked) }))
      assert.deepStrictEqual(plan.deletes, [])
    })
    it("is written where a mapping names exactly that file", () => {
      for (const path of theirs) assert.deepStrictEqual(shown(run([dir("x", path)], tree("x"))), [`${path} < x`])
    })
    it("is never deleted", () => {
      const plan = Result.getOrThrow(run([dir("x", "config/x")], tree("x"), { inventory: owned(...theirs) }))
      assert.deepStrictEqual(plan.deletes, [])
    })
  })

  describe("excludes", () => {
    const mappings = [dir("site", "config")]
    const cases: ReadonlyArray<readonly [string, string, boolean]> = [
      ["**/.gitkeep", "a/.gitkeep", true],
      ["**/.git/", ".git/HEAD", true],
      ["**/node_modules", "a/node_modules/b/c", true],
      ["config/a/**", "a/b", true],
      ["site/a/**", "a/b", false],
      ["**/*.json", ".versions.json", true],
      ["View (1)/**", "View (1)/view.json", false],
      ["**/View (1)/**", "View (1)/view.json", true],
      ["{config}/a", "a", true]
    ]
    for (const [pattern, path, excluded] of cases) {
      it(`${pattern} ${excluded ? "excludes" : "leaves"} config/${path}`, () => {
        const files = shown(run(mappings, tree(`site/${path}`), { excludePatterns: [pattern] }))
        assert.lengthOf(files, excluded ? 0 : 1)
      })
    }
    it("also what would be refused", () => {
      assert.deepStrictEqual(shown(run(mappings, tree("@site/link"), { excludePatterns: ["**/link"] })), [])
    })
    it("keep a file of ours, and that it is ours", () => {
      const plan = Result.getOrThrow(
        run(mappings, tree("site/b"), { excludePatterns: ["config/a"], inventory: owned("config/a", "config/b") })
      )
      assert.deepStrictEqual([plan.deletes, plan.kept], [[], ["config/a"]])
    })
  })

  describe("deletion", () => {
    const mappings = [dir("site", "projects")]
    it("takes only files of the inventory that no mapping produces", () => {
      const inventory = owned("projects/a", "projects/b", "config/c")
      assert.deepStrictEqual(Result.getOrThrow(run(mappings, tree("site/a"), { inventory })).deletes, [
        "projects/b",
        "config/c"
      ])
    })
    it("without an inventory takes nothing", () => {
      assert.deepStrictEqual(Result.getOrThrow(run(mappings, tree("site/a"))).deletes, [])
    })
    const many = (count: number) => Array.from({ length: count }, (_, index) => `projects/f${index}`)
    const left = (count: number) => tree(...many(count).map((path) => path.replace("projects", "site")))
    const cases: ReadonlyArray<readonly [number, number, boolean]> = [
      [19, 0, true],
      [20, 9, false],
      [20, 10, true],
      [1000, 500, true],
      [1001, 500, false]
    ]
    for (const [before, after, allowed] of cases) {
      it(`of ${before - after} of ${before} files is ${allowed ? "done" : "refused"}`, () => {
        const inventory = owned(...many(before))
        const result = run(mappings, left(after), { inventory })
        if (allowed) assert.lengthOf(Result.getOrThrow(result).deletes, before - after)
        else {
          assert.match(problem(result), /would be deleted.*allow-mass-deletion/)
          assert.isTrue(Result.isSuccess(run(mappings, left(after), { inventory, allowMassDeletion: true })))
        }
      })
    }
  })

  it("asks for scans of what is touched, projects first", () => {
    assert.deepStrictEqual(Plan.scansFor(["config/a", "projects/b", "modules/c"]), ["projects", "config"])
    assert.deepStrictEqual(Plan.scansFor(["ignition.conf", "configs/a"]), [])
    assert.deepStrictEqual(Plan.scansFor(["Config/a", "PROJECTS/b"]), ["projects", "config"])
  })
})
