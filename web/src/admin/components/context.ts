import { createContext } from "preact";
import { useContext } from "preact/hooks";
import type { AdminStore } from "../store";

export const StoreContext = createContext<AdminStore | null>(null);

export function useStore(): AdminStore {
  const store = useContext(StoreContext);
  if (store === null) throw new Error("a component was drawn outside StoreContext");
  return store;
}
