/** A collection page by page, so that none of any size is held twice. */
import { Effect, Option, Stream } from "effect"
import type { ApiClient, Page, Selection } from "./ApiClient.ts"
import type { ApiError } from "./ApiError.ts"
import type * as Resource from "./Resource.ts"

/** Objects a page. */
export const size = 500

export interface Options extends Selection {
  /** {@link size} by default. */
  readonly pageSize?: number | undefined
  /** At least as new as this; the newest when absent. */
  readonly resourceVersion?: string | undefined
}

/** Pages are asked for as they are read; the last one tells the resourceVersion of them all. */
export const of = (
  { list }: Pick<ApiClient["Service"], "list">,
  resource: Resource.Resource,
  { pageSize = size, resourceVersion, ...selection }: Options
): Stream.Stream<Page, ApiError> =>
  Stream.paginate(Option.none<string>(), (token) =>
    Effect.map(
      list(resource, {
        ...selection,
        limit: pageSize,
        // The API server refuses both.
        ...Option.match(token, {
          onNone: () => (resourceVersion === undefined ? {} : { resourceVersion }),
          onSome: (token) => ({ continue: token })
        })
      }),
      (page) => [[page], Option.map(page.continue, Option.some)] as const
    )
  )
