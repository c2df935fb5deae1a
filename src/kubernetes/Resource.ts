/**
 * Kinds of objects by their REST path. Only namespaced kinds are known here: Stoker has no others.
 */

export interface Resource {
  /** "" is the core group. */
  readonly group: string
  readonly version: string
  readonly plural: string
  readonly kind: string
}

/** One object. */
export interface ObjectRef {
  readonly namespace: string
  readonly name: string
}

export const apiVersion = (resource: Resource): string =>
  resource.group === "" ? resource.version : `${resource.group}/${resource.version}`

/** Path of a collection (all namespaces when none is given), an object, or a subresource of one. */
export const path = (
  resource: Resource,
  target: {
    readonly namespace?: string | undefined
    readonly name?: string | undefined
    readonly subresource?: string | undefined
  } = {}
): string => {
  const root = resource.group === "" ? `/api/${resource.version}` : `/apis/${resource.group}/${resource.version}`
  const parts = [root]
  if (target.namespace !== undefined) parts.push("namespaces", encodeURIComponent(target.namespace))
  parts.push(resource.plural)
  if (target.name !== undefined) parts.push(encodeURIComponent(target.name))
  if (target.subresource !== undefined) parts.push(target.subresource)
  return parts.join("/")
}

/** `namespace/name`. */
export const key = (ref: ObjectRef): string => `${ref.namespace}/${ref.name}`

/** What a {@link key} names. */
export const refOf = (key: string): ObjectRef => {
  const [namespace = "", name = ""] = key.split("/")
  return { namespace, name }
}

export const configMaps: Resource = { group: "", version: "v1", plural: "configmaps", kind: "ConfigMap" }
export const pods: Resource = { group: "", version: "v1", plural: "pods", kind: "Pod" }
export const secrets: Resource = { group: "", version: "v1", plural: "secrets", kind: "Secret" }
export const serviceAccounts: Resource = { group: "", version: "v1", plural: "serviceaccounts", kind: "ServiceAccount" }
export const leases: Resource = { group: "coordination.k8s.io", version: "v1", plural: "leases", kind: "Lease" }
export const events: Resource = { group: "events.k8s.io", version: "v1", plural: "events", kind: "Event" }
export const roles: Resource = { group: "rbac.authorization.k8s.io", version: "v1", plural: "roles", kind: "Role" }
export const roleBindings: Resource = {
  group: "rbac.authorization.k8s.io",
  version: "v1",
  plural: "rolebindings",
  kind: "RoleBinding"
}
