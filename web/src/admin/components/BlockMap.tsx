import type { Signal } from "@preact/signals";
import { useEffect, useRef } from "preact/hooks";
import { CODES } from "../blocks";
import { count } from "../figures";
import { Painter } from "../painter";
import { words } from "../words";
import { type Colours, useColours } from "./colours";
import { useStore } from "./context";

const HEIGHT = 560;

/** One cell a block. Where the pointer is, the block is asked about; a click keeps it. */
export function BlockMap({ lit }: { lit: Signal<ReadonlySet<number>> }) {
  const store = useStore();
  const canvas = useRef<HTMLCanvasElement>(null);
  const painter = useRef<Painter | null>(null);
  const colours = useColours();
  useEffect(() => {
    const element = canvas.current;
    const context = element?.getContext("2d", { alpha: true });
    const box = element?.parentElement;
    if (element === null || context == null || box == null) return;
    const made = new Painter(element, context, store.map.model);
    painter.current = made;
    made.colours = inOrder(colours);
    let width = 0;
    const fit = () => made.fit((width = box.clientWidth), HEIGHT, devicePixelRatio);
    fit();
    const resize = new ResizeObserver(() => box.clientWidth === width || fit());
    resize.observe(box);
    const unwatch = store.map.watch((changed) => (changed === null ? fit() : made.some(changed)));
    const unlight = lit.subscribe((ids) => made.light(ids));
    return () => {
      resize.disconnect();
      unwatch();
      unlight();
    };
  }, [colours, store, lit]);
  store.map.version.value;
  const point = (event: PointerEvent, kept: boolean) => {
    const id = painter.current?.at(event.offsetX, event.offsetY) ?? 0;
    if (id !== 0) store.point(id, kept);
  };
  return (
    <div class="map-box">
      <canvas
        ref={canvas}
        class="map"
        role="img"
        aria-label={words.value.mapText(count(store.map.model.total))}
        onPointerMove={(event) => point(event, false)}
        onPointerDown={(event) => point(event, true)}
      />
    </div>
  );
}

function inOrder(colours: Colours): string[] {
  const names = { dead: "dead", cold: "kept", shared: "shared", free: "free", active: "active", tail: "tail", idle: "idle", soft: "soft", hard: "hard" } as const;
  return [...CODES.map((code) => colours[names[code]]), colours.text];
}
