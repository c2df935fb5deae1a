/**
 * What lies in the demo's git repository, and what must therefore lie on each gateway. Pure: the same arguments give the
 * same bytes, so a test can say what every file of every commit is.
 *
 * A *revision* is a number that stands in the files that a change touches.
 */
import type * as Profile from "../api/Profile.ts"

export type Files = Readonly<Record<string, string>>

const json = (value: unknown) => `${JSON.stringify(value, undefined, 2)}\n`

const project = (title: string): string =>
  json({ title, description: "", enabled: true, inheritable: false, parent: "" })

const resource = (scope: "G" | "A", files: ReadonlyArray<string>): string =>
  json({ scope, version: 1, restricted: false, overridable: true, files, attributes: {} })

const view = (text: string): string =>
  json({
    custom: {},
    params: {},
    root: { type: "ia.container.flex", children: [{ type: "ia.display.label", props: { text } }] }
  })

/** A site's folder: one project with `views` pages; `Home` shows the revision. */
const site = (name: string, revision: number, views: number): Files => {
  const views_ = `com.inductiveautomation.perspective/views`
  const files: Record<string, string> = {
    "plant/project.json": project(`Plant ${name}`),
    [`plant/${views_}/Home/resource.json`]: resource("G", ["view.json"]),
    [`plant/${views_}/Home/view.json`]: view(`${name}, revision ${revision}`)
  }
  for (let page = 1; page < views; page++) {
    files[`plant/${views_}/Page ${page}/resource.json`] = resource("G", ["view.json"])
    files[`plant/${views_}/Page ${page}/view.json`] = view(`${name}, page ${page}`)
  }
  return files
}

/** Config resources that every gateway of every site shares. */
const shared = (): Files => ({
  "config-mode.json": json({
    title: "external",
    description: "From Git",
    enabled: true,
    inheritable: true,
    parent: "system"
  }),
  "com.inductiveautomation.opcua/device/press/config.json": json({
    profile: { type: "ProgrammableDevice" },
    settings: {}
  }),
  "com.inductiveautomation.opcua/device/press/resource.json": resource("A", ["config.json"])
})

const reports = (): Files => ({
  "project.json": project("Reports"),
  "com.inductiveautomation.reporting/reports/Shift/resource.json": resource("G", ["data.json"]),
  "com.inductiveautomation.reporting/reports/Shift/data.json": json({ title: "Shift" })
})

const under = (folder: string, files: Files): Files =>
  Object.fromEntries(Object.entries(files).map(([path, content]) => [`${folder}/${path}`, content]))

export interface Shape {
  readonly sites: ReadonlyArray<string>
  /** Pages of each site's project. */
  readonly views: number
}

/** Path to content of the whole repository at a revision. */
export const repository = (shape: Shape, revision: number): Files => ({
  "README.md": "The demo plant: one folder a site, and what all sites share.\n",
  ...under("shared/external", shared()),
  ...under("shared/reports", reports()),
  ...Object.assign({}, ...shape.sites.map((name) => under(`sites/${name}/projects`, site(name, revision, shape.views))))
})

/** Just what a new revision changes: one file a site. */
export const change = (shape: Shape, revision: number): Files =>
  Object.fromEntries(
    shape.sites.map((name) => [
      `sites/${name}/projects/plant/com.inductiveautomation.perspective/views/Home/view.json`,
      view(`${name}, revision ${revision}`)
    ])
  )

/** The two profiles of the demo's GatewaySyncs: `reporting` adds a project to what `default` maps. */
export const profiles: Readonly<Record<string, Profile.Profile>> = {
  default: {
    mappings: [
      { source: "shared/external/", destination: "config/resources/external/" },
      { source: "sites/{{.GatewayName}}/projects/", destination: "projects/", required: true }
    ]
  },
  reporting: {
    mappings: [
      { source: "shared/external/", destination: "config/resources/external/" },
      { source: "sites/{{.GatewayName}}/projects/", destination: "projects/", required: true },
      { source: "shared/reports", destination: "projects/reports", type: "dir" }
    ]
  }
}

/** Path to content of what a gateway must have at a revision, relative to its data directory. */
export const gateway = (shape: Shape, name: string, profile: string, revision: number): Files => ({
  ...under("config/resources/external", shared()),
  ...under("projects", site(name, revision, shape.views)),
  ...(profile === "reporting" ? under("projects/reports", reports()) : {})
})
