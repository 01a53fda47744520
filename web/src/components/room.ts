import { count } from "../format";
import { words } from "../words";
import { useChat } from "./context";
import { LONGEST, makeRoom } from "./fit";

type Putting = InputEvent & { currentTarget: HTMLTextAreaElement };

/** What a field does before something is put into it: where it has no room for that it takes none of it, and the page says so. */
export function useRoom(): (event: Putting) => void {
  const { store } = useChat();
  return (event) => {
    const much = makeRoom(event);
    if (much === 0) return;
    event.preventDefault();
    store.notice.value = words.tooMuch(count(much), count(LONGEST));
  };
}
