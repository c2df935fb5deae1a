import { assert, describe, it } from "@effect/vitest"
import { Result } from "effect"
import * as Template from "../../src/agent/Template.ts"

const variables: Template.Variables = {
  GatewayName: "press-1",
  PodName: "ignition-2",
  PodOrdinal: 2,
  Namespace: "plant",
  Ref: "v1.2.0",
  Commit: "0123456789012345678901234567890123456789",
  CRName: "site-1",
  Labels: { app: "ignition", site: "north" },
  Vars: { area: "a/b", empty: "" }
}

const rendered: ReadonlyArray<readonly [string, string]> = [
  ["projects/", "projects/"],
  ["", ""],
  ["a }} b", "a }} b"],
  ["{ {.Ref} }", "{ {.Ref} }"],
  ["sites/{{.GatewayName}}/{{ .PodOrdinal }}", "sites/press-1/2"],
  ["{{.PodName}}{{.Namespace}}{{.CRName}}", "ignition-2plantsite-1"],
  ["{{.Ref}}-{{.Commit}}", "v1.2.0-0123456789012345678901234567890123456789"],
  ["{{.Labels.site}}/{{.Vars.area}}/x", "north/a/b/x"],
  ["<{{.Vars.empty}}>", "<>"],
  ['{{"{{"}}.Ref}}', "{{.Ref}}"],
  ["{{`{{`}}", "{{"],
  ['{{"}}"}}', "}}"],
  ['{{"a\\"b"}}', 'a"b'],
  ["a  {{- .Ref -}}  b", "av1.2.0b"],
  ["a {{- .Ref }} b", "av1.2.0 b"],
  ["a {{ .Ref -}} b", "a v1.2.0b"],
  ["a{{/* no */}}b", "ab"],
  ["a {{- /* no */ -}} b", "ab"]
]

const refused: ReadonlyArray<readonly [string, RegExp]> = [
  ["{{.Vars.line}}", /map has no entry for key "line"/],
  ["{{.Labels.constructor}}", /map has no entry for key "constructor"/],
  ["{{.Nope}}", /can't evaluate field Nope/],
  ["{{.Ref.x}}", /can't evaluate field x in \.Ref/],
  ["{{.Labels.app.kubernetes.io}}", /can't evaluate field kubernetes in \.Labels\.app/],
  ["{{.Labels.my-label}}", /bad character U\+002D '-'/],
  ["{{.Vars}}", /\.Vars needs a key/],
  ["{{.}}", /"\." is not supported/],
  ["{{}}", /missing value/],
  ["{{ .Ref", /not closed/],
  ["{{if .Ref}}x{{end}}", /{{if}} is not supported/],
  ["{{range .Vars}}{{end}}", /{{range}} is not supported/],
  ['{{index .Vars "x"}}', /function "index" is not supported/],
  ["{{.Ref | printf}}", /pipeline/],
  ["{{$x := .Ref}}", /template variable/],
  ["{{-3}}", /"-3" is not supported/]
]

describe("Template", () => {
  for (const [template, expected] of rendered) {
    it(`renders ${JSON.stringify(template)}`, () => {
      assert.deepStrictEqual(Template.render(template, variables), Result.succeed(expected))
    })
  }
  for (const [template, expected] of refused) {
    it(`refuses ${JSON.stringify(template)}`, () => {
      const result = Template.render(template, variables)
      assert.isTrue(Result.isFailure(result))
      if (Result.isFailure(result)) assert.match(result.failure.message, expected)
    })
  }
})
