"""Pictures that are drawn."""

import cv2
import numpy as np

from spd_core.pictures import draw_overlay


def test_labels_cover_neither_each_other_nor_the_scale_bar(monkeypatch):
    written, put = [], cv2.putText

    def note(picture, text, at, font, scale, colour, *rest):
        if colour == (255, 255, 255):
            (w, h), _ = cv2.getTextSize(text, font, scale, 1)
            written.append((text, at[0], at[1] - h, at[0] + w, at[1]))
        return put(picture, text, at, font, scale, colour, *rest)

    monkeypatch.setattr(cv2, "putText", note)
    uv = np.array([[u, v] for u in range(10, 640, 30) for v in range(10, 480, 22)], float)
    draw_overlay(
        np.zeros((480, 640, 3), np.uint8), uv, np.linspace(1, 5, len(uv)), labels=len(uv), caption="scale 1.02"
    )
    assert len(written) > 100
    assert [text for text, *_ in written[:4]] == ["5.0 m", "3.0 m", "1.0 m", "scale 1.02"]
    for i, (text, left, top, right, bottom) in enumerate(written):
        assert left >= 0, text
        assert right <= 640, text
        for _, other_left, other_top, other_right, other_bottom in written[:i]:
            assert left >= other_right or right <= other_left or top >= other_bottom or bottom <= other_top, text
        if i > 3:
            assert right <= 570 or top >= 180, text  # the bar
