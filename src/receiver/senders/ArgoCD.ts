/**
 * Argo CD notifications: `app.metadata.annotations["git.ref"]`, an annotation that people put on their Application.
 * `app.spec.source` is the repository of the manifests, not ours, so it tells nothing.
 */
import { Predicate, Result } from "effect"
import * as Reader from "../Reader.ts"
import * as RefField from "../RefField.ts"

const annotationsOf = (body: Reader.Message["body"]): unknown => {
  const { app } = body
  if (!Predicate.isObject(app) || !("metadata" in app) || !Predicate.isObject(app.metadata)) return undefined
  return "annotations" in app.metadata ? app.metadata.annotations : undefined
}

const refOf = (body: Reader.Message["body"]): unknown => {
  const annotations = annotationsOf(body)
  return Predicate.isObject(annotations) ? (annotations as Readonly<Record<string, unknown>>)["git.ref"] : undefined
}

export const sender: Reader.Sender = {
  name: "argocd",
  marks: [],
  looksLike: (body) => refOf(body) !== undefined,
  read: ({ body, id }) => {
    const ref = RefField.read(
      'app.metadata.annotations["git.ref"]',
      refOf(body),
      "Is the annotation git.ref on the Argo CD Application?"
    )
    if (Result.isFailure(ref)) return Reader.invalid(ref.failure)
    return {
      _tag: "Request",
      sender: "argocd",
      patience: "person",
      deliveries: [{ _tag: "Promotion", by: "argocd", ref: ref.success.ref, ...Reader.optional("id", id) }]
    }
  }
}
